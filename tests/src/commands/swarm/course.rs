//! Shell: one run: starts the server, then the nodes as planned, and waits until all have the image.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::engine::{Engine, Source, Stage};
use super::evil::Evil;
use super::figures::{NodeSeen, Seen};
use super::flow::Sent;
use super::room::node_address;
use super::worker::Worker;
use crate::host::clock;
use crate::host::process::tail;

/// How often the run looks at its processes; finish times do not depend on it.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it looks at memory and at the server's link.
const MEASURE_EVERY: Duration = Duration::from_millis(200);
/// Until a killed server is started again.
const AWAY: Duration = Duration::from_secs(5);
/// Latecomers start when this share of the wire time has passed.
const LATE_AFTER: f64 = 0.6;
/// Each run may take as long as sending every copy one after the other twice, and this.
const GRACE: Duration = Duration::from_secs(60);

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seconds between two nodes' starts.
    pub stagger: f64,
    /// How many of the nodes start late.
    pub late: usize,
    /// How many of the nodes send bad data instead of fetching; BootTorrent only.
    pub evil: usize,
    /// The server is killed when so many copies have left it.
    pub kill_server_after: Option<f64>,
    /// A killed server comes back.
    pub restarts_server: bool,
}

/// A run in progress.
struct Course<'a> {
    engine: Engine,
    stage: &'a Stage<'a>,
    plan: &'a Plan,
    start: Instant,
    source: Option<Source>,
    sent_before: Sent,
    /// CPU of a server that was killed.
    cpu_spent: Duration,
    killed: Option<Instant>,
    nodes: Vec<Option<Worker>>,
    measured: Instant,
}

/// Runs `engine` once and measures it.
pub fn run(engine: Engine, number: u32, stage: &Stage, plan: &Plan) -> Result<Seen> {
    let wiring = stage.room.wiring();
    let honest = wiring.nodes - plan.evil;
    let (load, cores_before) = (load()?, Cores::now()?);
    let mut source = engine.start_source(stage)?;
    let nodes = (0..honest).map(|node| engine.prepare_node(stage, node)).collect::<Result<_>>()?;
    let evil: Vec<Evil> =
        (honest..wiring.nodes).map(|node| Evil::start(stage, node)).collect::<Result<_>>()?;
    stage.room.forget_flows()?;
    let lost_before = stage.room.lost()?;
    source.worker.forget_cpu()?;
    let start = clock::now();
    let mut course = Course {
        engine,
        stage,
        plan,
        start,
        source: Some(source),
        sent_before: stage.room.server_sent()?,
        cpu_spent: Duration::ZERO,
        killed: None,
        nodes,
        measured: start,
    };
    let wire_secs = wire_secs(stage);
    let started = course.race(wire_secs);
    let sent = stage.room.server_sent()?.since(course.sent_before);
    let flows = stage.room.flows()?;
    let busy = Cores::now()?.busy_since(&cores_before);
    started?;
    let seed_cpu = course.seed_cpu()?;
    let nodes = course.measure_nodes()?;
    let bad: u64 = evil.iter().map(Evil::blocks).sum();
    drop(course);
    for node in 0..honest {
        let is_same = stage.payload.is_same(&engine.files(stage, node))?;
        ensure!(is_same, "{}: the image of PC {} is wrong", engine.name(), node + 1);
    }
    if !evil.is_empty() {
        println!("  {} evil peers sent {bad} bad blocks", evil.len());
        ensure!(bad > 0, "no PC requested anything from the evil peers, so nothing was tested");
    }
    let lost = stage.room.lost()? - lost_before;
    ensure!(wiring.loss_permille == 0 || lost > 0, "no packet was lost, so nothing was tested");
    Ok(Seen {
        engine,
        run: number,
        bytes: stage.payload.bytes(),
        wire_secs,
        nodes,
        server_bytes: sent.payload(engine.headers()),
        seed_cpu,
        load,
        busy,
        lost,
        flows,
    })
}

/// The image's bits over the slower link's rate.
fn wire_secs(stage: &Stage) -> f64 {
    let wiring = stage.room.wiring();
    let rate = f64::from(wiring.mbit.min(wiring.server_mbit)) * 1e6;
    stage.payload.bytes() as f64 * 8.0 / rate
}

impl Course<'_> {
    /// Starts the nodes as planned and waits until all are done.
    fn race(&mut self, wire_secs: f64) -> Result<()> {
        let count = self.nodes.len();
        let starts: Vec<f64> = (0..count).map(|node| self.start_of(node, wire_secs)).collect();
        let last = starts.iter().copied().fold(0.0, f64::max);
        let limit = GRACE + Duration::from_secs_f64(last + 2.0 * wire_secs * (count + 1) as f64);
        let mut waiting: Vec<usize> = (0..count).rev().collect();
        loop {
            let now = clock::now();
            let passed = (now - self.start).as_secs_f64();
            while let Some(node) = waiting.pop_if(|node| starts[*node] <= passed) {
                self.start_node(node)?;
            }
            if now - self.measured >= MEASURE_EVERY {
                self.measured = now;
                self.measure(now)?;
            }
            if self.look_at_nodes()? && waiting.is_empty() {
                return Ok(());
            }
            if now - self.start > limit {
                bail!("{}", self.unfinished(limit));
            }
            clock::check_interrupted()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Seconds after the room's start at which a node is started.
    fn start_of(&self, node: usize, wire_secs: f64) -> f64 {
        let is_late = node + self.plan.late >= self.nodes.len();
        let late = if is_late { LATE_AFTER * wire_secs } else { 0.0 };
        self.plan.stagger * node as f64 + late
    }

    fn start_node(&mut self, node: usize) -> Result<()> {
        match &mut self.nodes[node] {
            Some(ready) => ready.go(),
            empty => {
                *empty = Some(self.engine.start_node(self.stage, node)?);
                Ok(())
            }
        }
    }

    /// Whether all started nodes are done; sees to those that leave, and to those that failed.
    fn look_at_nodes(&self) -> Result<bool> {
        let mut all_done = true;
        for (node, worker) in self.nodes.iter().enumerate() {
            let Some(worker) = worker else { continue };
            // What it printed is read a moment after its end.
            let has_failed = match (worker.end()?, worker.finished()) {
                (None, _) | (Some(true), Some(_)) => false,
                (Some(_), Some(_)) => !self.stage.leaves,
                (Some(_), None) => worker.has_closed(),
            };
            if has_failed {
                bail!(
                    "the client of PC {} exited too early:\n{}",
                    node + 1,
                    tail(&worker.printed(), 10)
                );
            }
            if worker.finished().is_none() {
                all_done = false;
            } else if self.stage.leaves && !self.engine.leaves_by_itself() {
                worker.signal(Signal::SIGTERM);
            }
        }
        Ok(all_done)
    }

    fn measure(&mut self, now: Instant) -> Result<()> {
        for worker in self.nodes.iter_mut().flatten() {
            worker.look_at_memory();
        }
        match (&self.source, self.killed) {
            (Some(source), _) => {
                // A sender of multicast ends when all have everything.
                let has_failed = source.worker.end()? == Some(false);
                ensure!(!has_failed, "the server failed:\n{}", tail(&source.worker.printed(), 15));
                self.kill_when_due(now)
            }
            (None, Some(killed)) if self.plan.restarts_server && now - killed >= AWAY => {
                println!("  the server is back after {:.0} s", AWAY.as_secs_f64());
                self.source = Some(self.engine.start_source(self.stage)?);
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    fn kill_when_due(&mut self, now: Instant) -> Result<()> {
        let Some(after) = self.plan.kill_server_after.filter(|_| self.killed.is_none()) else {
            return Ok(());
        };
        let sent = self.stage.room.server_sent()?.since(self.sent_before);
        let copies = sent.payload(self.engine.headers()) as f64 / self.stage.payload.bytes() as f64;
        if copies >= after {
            let source =
                self.source.take().context("the server is not running, so it cannot be killed")?;
            source.worker.signal(Signal::SIGKILL);
            self.cpu_spent += source.worker.cpu()?;
            self.killed = Some(now);
            println!("  the server was killed after it had sent {copies:.2} copies");
        }
        Ok(())
    }

    fn seed_cpu(&self) -> Result<f64> {
        let now = self.source.as_ref().map_or(Ok(Duration::ZERO), |source| source.worker.cpu())?;
        ensure!(
            self.plan.kill_server_after.is_none() || self.killed.is_some(),
            "the server was never killed, because it sent fewer copies; choose a lower number"
        );
        Ok((self.cpu_spent + now).as_secs_f64())
    }

    fn measure_nodes(&self) -> Result<Vec<NodeSeen>> {
        let workers = self.nodes.iter().enumerate();
        workers
            .map(|(node, worker)| {
                let worker = worker.as_ref().context("a PC was never started")?;
                let finished = worker.finished().context("a PC did not finish")?;
                Ok(NodeSeen {
                    address: node_address(node),
                    start: (worker.started() - self.start).as_secs_f64(),
                    finish: (finished - self.start).as_secs_f64(),
                    cpu: worker.cpu()?.as_secs_f64(),
                    memory: worker.memory(),
                })
            })
            .collect()
    }

    fn unfinished(&self, limit: Duration) -> String {
        let is_late = |worker: &&Worker| worker.finished().is_none();
        let late: Vec<&Worker> = self.nodes.iter().flatten().filter(is_late).collect();
        let words = late.first().map(|worker| tail(&worker.printed(), 5)).unwrap_or_default();
        format!(
            "{}: {} PCs did not finish within {:.0} s; the last output of one:\n{words}",
            self.engine.name(),
            late.len(),
            limit.as_secs_f64()
        )
    }
}

/// Load of the last minute.
fn load() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("cannot read the load")?;
    let first = text.split(' ').next().and_then(|first| first.parse().ok());
    first.context("/proc/loadavg is empty")
}

/// Ticks of all cores since the machine started.
struct Cores {
    idle: f64,
    all: f64,
}

impl Cores {
    fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("cannot read the cores' times")?;
        let ticks: Vec<f64> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|ticks| ticks.parse().ok())
            .collect();
        ensure!(ticks.len() == 8, "/proc/stat has an unknown format");
        // proc(5): user nice system idle iowait irq softirq steal.
        Ok(Self { idle: ticks[3] + ticks[4], all: ticks.iter().sum() })
    }

    fn busy_since(&self, earlier: &Self) -> f64 {
        1.0 - (self.idle - earlier.idle) / (self.all - earlier.all).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cores_are_busy_when_they_are_not_idle() {
        let at = |idle, all| Cores { idle, all };
        assert!((at(150.0, 1100.0).busy_since(&at(100.0, 1000.0)) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn load_and_cores_can_be_read() {
        assert!(load().expect("Linux has it") >= 0.0);
        assert!(Cores::now().expect("Linux has it").all > 0.0);
    }
}
