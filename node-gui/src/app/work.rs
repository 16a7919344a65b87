//! Shell: the pieces of work that the journey asks for, one function each.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bt_catalog::{Catalog, Cmdline, Mac, System, SystemId, Trust};
use tokio::task::spawn_blocking;

use super::note::{Event, Say};
use crate::download::verified::{VerifiedSystem, accept};
use crate::download::verify::{self, Refused};
use crate::download::{Download, no_room};
use crate::handover::page_pool::PagePool;
use crate::handover::payload::Payload;
use crate::handover::plan::{self, BootPlan};
use crate::handover::{load, machine};
use crate::init::console::{self, Graphics};
use crate::init::mounts::PAYLOAD;
use crate::init::network::{Network, Patience};
use crate::init::serial;
use crate::journey::problem::{Problem, ProblemKind};
use crate::journey::{Connected, Connecting, Leaving};
use crate::server::catalog::{self, Identity};
use crate::server::http::Http;
use crate::server::reporter::Reporter;

/// Time between two progress events: 4 a second.
const REPORT_EVERY: Duration = Duration::from_millis(250);
/// Time between two tries to reach a server that is not there.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long powering off may wait for the swarm.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// How long the serial line may take to send its last record.
const DRAIN: Duration = Duration::from_millis(300);

/// What the pieces of work share.
pub(super) struct Shared {
    pub(super) line: Cmdline,
    /// The lab, once its catalog was verified.
    pub(super) lab: parking_lot::Mutex<Option<Lab>>,
    network: parking_lot::Mutex<Option<Network>>,
    page_pool: PagePool,
    /// The payload in memory. The task that works on it holds the lock, so that the next one waits for its end.
    payload: tokio::sync::Mutex<Option<Download>>,
    graphics: parking_lot::Mutex<Option<Graphics>>,
}

/// The lab that this node is in.
pub(super) struct Lab {
    http: Http,
    catalog: Arc<Catalog>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) mac: Option<Mac>,
    pub(super) name: Option<String>,
}

impl Shared {
    pub(super) fn new(line: Cmdline, page_pool: PagePool) -> Self {
        Self {
            line,
            page_pool,
            lab: parking_lot::Mutex::default(),
            network: parking_lot::Mutex::default(),
            payload: tokio::sync::Mutex::default(),
            graphics: parking_lot::Mutex::default(),
        }
    }

    /// Switches the text console to graphics mode, or back.
    pub(super) fn take_console(&self, is_taken: bool) {
        let mut graphics = self.graphics.lock();
        if !is_taken {
            *graphics = None;
            return;
        }
        match Graphics::enter() {
            Ok(entered) => *graphics = Some(entered),
            Err(error) => tracing::warn!(%error, "cannot switch the console to graphics mode"),
        }
    }

    /// Leaves the swarm and frees the memory of the payload.
    pub(super) async fn drop_payload(&self) {
        drop_payload(&mut *self.payload.lock().await).await;
    }

    /// Whether the network is up; not while it is just being brought up.
    fn has_network(&self) -> bool {
        self.network.try_lock().is_some_and(|network| network.is_some())
    }

    fn http_and_system(&self, id: &SystemId) -> Result<(Http, System), Problem> {
        let lab = self.lab.lock();
        let lab = lab.as_ref().ok_or_else(|| Problem::internal("no catalog yet"))?;
        let system = lab.catalog.system(id);
        let system =
            system.ok_or_else(|| Problem::internal(format!("{id} is no longer in the catalog")))?;
        Ok((lab.http.clone(), system.clone()))
    }

    /// Fetches the catalog again, never an older one; says whether there is a newer one.
    async fn renew_catalog(&self) -> Result<bool, Problem> {
        let known = self.lab.lock().as_ref().map(|lab| (lab.http.clone(), lab.catalog.version));
        let (http, version) = known.ok_or_else(|| Problem::internal("no catalog yet"))?;
        let trust = Trust { version_floor: version, ..trust()? };
        let catalog = catalog::fetch(&http, &trust).await?;
        let is_newer = catalog.version > version;
        if let Some(lab) = &mut *self.lab.lock() {
            lab.catalog = Arc::new(catalog);
        }
        Ok(is_newer)
    }

    async fn last_report(&self) {
        let reporter = self.lab.lock().as_ref().map(|lab| Arc::clone(&lab.reporter));
        if let Some(reporter) = reporter {
            reporter.flush().await;
        }
    }
}

async fn drop_payload(slot: &mut Option<Download>) {
    let Some(download) = slot.take() else { return };
    download.stop().await;
}

/// Network, server, catalog, menu. What may resolve itself is retried without being asked: a room is often
/// powered on before its server.
pub(super) async fn connect(shared: Arc<Shared>, say: Say) {
    loop {
        let problem = match try_connect(&shared, &say).await {
            Ok(ready) => return say.event(Event::Ready(ready)),
            Err(problem) => problem,
        };
        let kind = problem.kind;
        say.event(Event::ConnectFailed(problem));
        if !matches!(kind, ProblemKind::NoNetwork | ProblemKind::NoServer) {
            return;
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

async fn try_connect(shared: &Arc<Shared>, say: &Say) -> Result<Connected, Problem> {
    say.event(Event::Connecting(Connecting::Network, String::new()));
    let (server, who, mac) = network_up(shared, say).await?;
    let http = Http::new(&server)?;
    say.event(Event::Connecting(Connecting::Catalog, String::new()));
    let catalog = Arc::new(catalog::fetch(&http, &trust()?).await?);
    serial::step("catalog", &[("version", &catalog.version.to_string())]);
    let name = who.name.clone();
    let this = Arc::clone(shared);
    let machine = spawn_blocking(move || machine::look(this.page_pool.runs())).await;
    let machine =
        machine.map_err(|error| Problem::internal(format!("cannot inspect this PC: {error}")))?;
    let obstacle = |system: &System| plan::plan(system, &machine).err();
    let menu = catalog::menu(&http, &catalog, who, &shared.line, obstacle).await;
    let reporter = Arc::new(Reporter::start(http.clone()));
    let timeout =
        Some(shared.line.node.timeout.unwrap_or(catalog.timeout_secs)).filter(|secs| *secs > 0);
    *shared.lab.lock() = Some(Lab { http, catalog, reporter, mac, name });
    Ok(Connected { menu, preset: shared.line.node.preset.clone(), timeout })
}

fn trust() -> Result<Trust, Problem> {
    catalog::trust(Path::new(catalog::ROOT_KEY), Path::new(catalog::LAB))
}

/// Brings the network up from nothing, as often as it is asked for.
async fn network_up(
    shared: &Arc<Shared>,
    say: &Say,
) -> Result<(String, Identity, Option<Mac>), Problem> {
    let (shared, say) = (Arc::clone(shared), say.clone());
    let stop = StopOnDrop::default();
    let stopped = Arc::clone(&stop.0);
    let up = spawn_blocking(move || {
        // The previous one ends first, and its udhcpc with it. Later callers wait for this one.
        let mut slot = shared.network.lock();
        drop(slot.take());
        let report = |text| say.event(Event::Connecting(Connecting::Network, text));
        let network = Network::up(&shared.line, &Patience { say: &report, stop: &stopped })?;
        let address = network.lease.address().map(str::to_owned);
        serial::step(
            "network",
            &[("interface", &network.interface), ("ip", address.as_deref().unwrap_or("none"))],
        );
        let who = Identity { name: network.lease.hostname().map(str::to_owned), address };
        let known = (network.server.clone(), who, network.mac);
        *slot = Some(network);
        Ok(known)
    });
    up.await.unwrap_or_else(|error| {
        Err(Problem::internal(format!("bringing up the network failed: {error}")))
    })
}

/// Fetches the payload of this system; one that stalled continues where it was.
pub(super) async fn download(shared: Arc<Shared>, say: Say, id: SystemId) {
    match try_download(&shared, &say, &id).await {
        Ok(()) => say.event(Event::Downloaded(id)),
        Err(problem) => {
            if problem.kind != ProblemKind::Stalled {
                shared.drop_payload().await;
            }
            say.event(Event::Failed(id, problem));
        }
    }
}

async fn try_download(shared: &Arc<Shared>, say: &Say, id: &SystemId) -> Result<(), Problem> {
    let (http, system) = shared.http_and_system(id)?;
    if !shared.has_network() {
        // Taken down for a kernel that was refused, and it did not come back.
        network_up(shared, say).await?;
    }
    let mut slot = shared.payload.lock().await;
    if slot.as_ref().is_some_and(|download| download.id() != id) {
        drop_payload(&mut slot).await;
    }
    let download = match slot.take() {
        Some(download) => download,
        None => begin(shared, id, &http, system).await?,
    };
    let download = slot.insert(download);
    download.complete(|progress| say.event(Event::Progress(id.clone(), progress))).await
}

/// Starts a fresh download. A .torrent that does not match was most likely published after our catalog.
async fn begin(
    shared: &Arc<Shared>,
    id: &SystemId,
    http: &Http,
    system: System,
) -> Result<Download, Problem> {
    let problem = match begin_one(shared, http, &system).await {
        Err(problem) if problem.kind == ProblemKind::BadSignature => problem,
        started => return started,
    };
    if !shared.renew_catalog().await? {
        return Err(problem);
    }
    let (_, system) = shared.http_and_system(id)?;
    begin_one(shared, http, &system).await
}

/// Chooses the boot method of this system, and begins to download it to where that method needs it.
async fn begin_one(
    shared: &Arc<Shared>,
    http: &Http,
    system: &System,
) -> Result<Download, Problem> {
    let this = Arc::clone(shared);
    let machine = spawn_blocking(move || machine::look(this.page_pool.runs())).await;
    let machine =
        machine.map_err(|error| Problem::internal(format!("cannot inspect this PC: {error}")))?;
    let plan = plan::plan(system, &machine)?;
    serial::step("fit", &[("system", system.id.as_str()), ("way", plan.word())]);
    Download::start(http, system, || room(shared, system, plan)).await
}

/// Makes room for the files where the plan wants them; what is not needed goes back to the kernel.
fn room(shared: &Shared, system: &System, plan: BootPlan) -> Result<Payload, Problem> {
    let payload = match plan {
        BootPlan::Files => {
            shared.page_pool.release();
            Payload::as_kexec_files(system, &Path::new(PAYLOAD).join(system.id.as_str()))
        }
        plan => Payload::in_memory(system, shared.page_pool.take(), plan),
    };
    payload.map_err(|error| no_room(system, &error))
}

/// Stops blocking work when the task that waits for it is aborted.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Proves the payload; the swarm goes on sharing it meanwhile.
pub(super) async fn verify(shared: Arc<Shared>, say: Say, id: SystemId) {
    let stop = StopOnDrop::default();
    match try_verify(&shared, &say, &id, Arc::clone(&stop.0)).await {
        Ok(proof) => say.event(Event::Verified(Box::new(proof))),
        Err(Refused::Cancelled) => {}
        Err(Refused::Problem(problem)) => {
            // Wrong bytes are neither kept nor shared; a retry downloads all of them.
            shared.drop_payload().await;
            say.event(Event::Failed(id, problem));
        }
    }
}

async fn try_verify(
    shared: &Shared,
    say: &Say,
    id: &SystemId,
    stop: Arc<AtomicBool>,
) -> Result<VerifiedSystem, Refused> {
    let (system, payload) = {
        let slot = shared.payload.lock().await;
        let download = slot.as_ref().filter(|download| download.id() == id);
        let lost = || Refused::Problem(Problem::internal(format!("{id}: its files are missing")));
        let download = download.ok_or_else(lost)?;
        if let Some(proven) = download.proven() {
            return Ok(accept(proven));
        }
        (download.system().clone(), Arc::clone(download.payload()))
    };
    let say = say.clone();
    let verified = spawn_blocking(move || {
        let total = system.total();
        let mut reported = now();
        verify::verify(&system, &payload, &mut |done| {
            if now().duration_since(reported) >= REPORT_EVERY || done == total {
                reported = now();
                say.event(Event::Hashed(system.id.clone(), done, total));
            }
            !stop.load(Ordering::Relaxed)
        })
    });
    let lost = |error| Err(Refused::Problem(Problem::internal(format!("hashing failed: {error}"))));
    verified.await.unwrap_or_else(lost)
}

/// Loads the kernel, releases everything and starts it. Returns only with a problem.
pub(super) async fn hand_over(shared: Arc<Shared>, say: Say, proof: Box<VerifiedSystem>) {
    let id = proof.id().clone();
    // Nothing may write into what is being started; the server learns that this PC leaves.
    shared.drop_payload().await;
    shared.last_report().await;
    let loaded = spawn_blocking(move || load::load(*proof)).await;
    let problem = match loaded {
        Ok(Ok(loaded)) => execute(&shared, loaded).await,
        Ok(Err(problem)) => problem,
        Err(error) => Problem::internal(format!("loading the kernel failed: {error}")),
    };
    // First the screen shows it: the network may take more than a minute.
    say.event(Event::Failed(id, problem));
    if !shared.has_network()
        && let Err(second) = network_up(&shared, &say).await
    {
        tracing::warn!(error = %second, "cannot bring the network up again after the kernel was refused");
    }
}

/// The last second of this kernel, and of its network. Returns only with a problem.
async fn execute(shared: &Arc<Shared>, loaded: load::Loaded) -> Problem {
    let this = Arc::clone(shared);
    let executed = spawn_blocking(move || {
        if let Some(network) = this.network.lock().take() {
            network.down();
        }
        serial::step("kexec", &[]);
        serial::drain(DRAIN);
        // The console stays in graphics mode: it ends with this kernel, and the picture stays until the next one draws.
        loaded.execute()
    });
    executed
        .await
        .unwrap_or_else(|error| Problem::internal(format!("starting the kernel failed: {error}")))
}

/// Powers off or restarts.
pub(super) async fn leave(shared: Arc<Shared>, how: Leaving) {
    if tokio::time::timeout(LEAVE_WITHIN, shared.drop_payload()).await.is_err() {
        tracing::warn!("timed out while leaving the swarm");
    }
    let left = spawn_blocking(move || {
        if let Some(network) = shared.network.lock().take() {
            network.down();
        }
        console::restore();
        nix::unistd::sync();
        let command = match how {
            Leaving::PowerOff => libc::LINUX_REBOOT_CMD_POWER_OFF,
            Leaving::Restart => libc::LINUX_REBOOT_CMD_RESTART,
        };
        // SAFETY: reboot(2) with these commands touches no memory of this process.
        unsafe { libc::reboot(command) };
        std::io::Error::last_os_error()
    });
    let error = left.await;
    tracing::error!(?error, "cannot power off or restart this PC");
}

#[expect(clippy::disallowed_methods, reason = "a shell that limits how often it reports")]
fn now() -> Instant {
    Instant::now()
}
