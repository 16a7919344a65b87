//! A disk in memory that can lose power at any moment, and fail at any operation.
//!
//! It knows what a real one promises, and no more: bytes are durable after a sync of their file,
//! names after a sync of the folder. Until then each write may be there, or not, or torn at any
//! byte, or lack whole sectors, whatever became of the writes before it; names change in their
//! order, but any number of the last changes may be lost. After a failed sync the bytes may be
//! seen, yet a later sync does not save them, as on Linux.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Error, ErrorKind, Result};
use std::rc::Rc;

use bt_server::roles::dhcp::lease_log::{Disk, Which};

/// What disks write at once.
const SECTOR: usize = 512;

/// Handles to one disk; it outlives the server that uses it.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    state: State,
    /// The state after each operation since somebody last took them.
    history: Vec<State>,
    is_recording: bool,
    operations: usize,
    failing: Option<Failing>,
}

/// Operations that fail.
#[derive(Clone, Copy)]
pub struct Failing {
    /// The first that fails, counted from 0.
    pub from: usize,
    /// The first that works again.
    pub until: usize,
    /// How.
    pub kind: ErrorKind,
}

/// Everything on the disk, and all that is still on its way.
#[derive(Clone, Default)]
pub struct State {
    files: Vec<SimulatedFile>,
    names: Names,
    durable_names: Names,
    pending_names: Vec<Names>,
}

/// Which file has which name: the log and the new log.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Names {
    log: Option<usize>,
    new: Option<usize>,
}

#[derive(Clone, Default)]
struct SimulatedFile {
    /// What the server reads.
    seen: Vec<u8>,
    /// What survives for certain.
    durable: Vec<u8>,
    pending: Vec<Operation>,
}

#[derive(Clone)]
enum Operation {
    Write { at: usize, bytes: Vec<u8> },
    Cut(usize),
}

impl SimulatedDisk {
    /// A disk with this log on it, all durable.
    pub fn with_log(log: Option<Vec<u8>>) -> Self {
        let disk = Self::default();
        if let Some(bytes) = log {
            let file = SimulatedFile { seen: bytes.clone(), durable: bytes, pending: vec![] };
            let names = Names { log: Some(0), new: None };
            let state =
                State { files: vec![file], names, durable_names: names, ..State::default() };
            disk.0.borrow_mut().state = state;
        }
        disk
    }

    /// From now on the state after each operation is kept.
    pub fn record(&self) {
        self.0.borrow_mut().is_recording = true;
    }

    /// Keeps the state as it is now.
    pub fn look(&self) {
        self.end(|_| ());
    }

    /// The states since the last call.
    pub fn take_history(&self) -> Vec<State> {
        std::mem::take(&mut self.0.borrow_mut().history)
    }

    /// Makes some operations fail; the next one has the number 0.
    pub fn fail(&self, failing: Failing) {
        let mut inner = self.0.borrow_mut();
        inner.operations = 0;
        inner.failing = Some(failing);
    }

    /// From now on none fails.
    pub fn repair(&self) {
        self.0.borrow_mut().failing = None;
    }

    /// The log's bytes as the server sees them.
    pub fn log(&self) -> Vec<u8> {
        let inner = self.0.borrow();
        inner.state.names.log.map(|file| inner.state.files[file].seen.clone()).unwrap_or_default()
    }

    /// Counts an operation; the error that it has to fail with, if any.
    fn begin(&self) -> Option<Error> {
        let mut inner = self.0.borrow_mut();
        let number = inner.operations;
        inner.operations += 1;
        let failing = inner.failing?;
        (failing.from..failing.until).contains(&number).then(|| Error::from(failing.kind))
    }

    fn end<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = self.0.borrow_mut();
        let result = change(&mut inner.state);
        if inner.is_recording {
            let state = inner.state.clone();
            inner.history.push(state);
        }
        result
    }
}

impl State {
    /// Every log that may be found after a loss of power in this state.
    pub fn after_power_loss(&self) -> BTreeSet<Option<Vec<u8>>> {
        let mut logs = BTreeSet::new();
        for names in std::iter::once(&self.durable_names).chain(&self.pending_names) {
            match names.log {
                Some(file) => self.files[file].after_power_loss(|log| {
                    logs.insert(Some(log));
                }),
                None => {
                    logs.insert(None);
                }
            }
        }
        logs
    }

    fn file(&mut self, which: Which) -> Result<&mut SimulatedFile> {
        let file = match which {
            Which::Log => self.names.log,
            Which::New => self.names.new,
        };
        file.map(|file| &mut self.files[file]).ok_or(Error::from(ErrorKind::NotFound))
    }

    fn rename(&mut self, names: Names) {
        self.names = names;
        self.pending_names.push(names);
    }
}

impl SimulatedFile {
    fn apply(&mut self, operation: Operation) {
        operation.apply(&mut self.seen);
        self.pending.push(operation);
    }

    /// Any of the operations may be lost, and the last of the others torn.
    fn after_power_loss(&self, mut found: impl FnMut(Vec<u8>)) {
        assert!(self.pending.len() < 8, "the log syncs after a few operations");
        for survivors in 0..1_u32 << self.pending.len() {
            let survives = |index: &usize| survivors & 1 << index != 0;
            let indices: Vec<usize> = (0..self.pending.len()).filter(survives).collect();
            let mut bytes = self.durable.clone();
            let Some((&last, others)) = indices.split_last() else {
                found(bytes);
                continue;
            };
            others.iter().for_each(|&index| self.pending[index].apply(&mut bytes));
            self.pending[last].torn(&bytes, &mut found);
        }
    }
}

impl Operation {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                let end = at + bytes.len();
                file.resize(file.len().max(end), 0);
                file[*at..end].copy_from_slice(bytes);
            }
            Self::Cut(length) => file.resize(*length, 0),
        }
    }

    /// The whole, each beginning of it, and each choice of its sectors.
    fn torn(&self, file: &[u8], found: &mut impl FnMut(Vec<u8>)) {
        let done = |operation: &Self| {
            let mut file = file.to_vec();
            operation.apply(&mut file);
            file
        };
        let Self::Write { at, bytes } = self else { return found(done(self)) };
        for length in 1..=bytes.len() {
            found(done(&Self::Write { at: *at, bytes: bytes[..length].to_vec() }));
        }
        let first = at / SECTOR;
        let sectors = (at + bytes.len()).div_ceil(SECTOR) - first;
        let whole = done(self);
        for lost in 1..1_u32 << sectors.min(6) {
            let mut torn = whole.clone();
            for sector in (0..sectors).filter(|sector| lost & 1 << sector != 0) {
                let start = (first + sector) * SECTOR;
                for (index, byte) in torn.iter_mut().enumerate().skip(start).take(SECTOR) {
                    *byte = file.get(index).copied().unwrap_or(0);
                }
            }
            found(torn);
        }
    }
}

impl Disk for SimulatedDisk {
    fn lock(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let mut inner = self.0.borrow_mut();
        Ok(inner.state.file(Which::Log).ok().map(|file| file.seen.clone()))
    }

    fn create(&mut self, which: Which) -> Result<()> {
        self.begin().map_or(Ok(()), Err)?;
        self.end(|state| {
            if let Ok(file) = state.file(which) {
                file.apply(Operation::Cut(0));
                return;
            }
            state.files.push(SimulatedFile::default());
            let made = Some(state.files.len() - 1);
            let names = match which {
                Which::Log => Names { log: made, ..state.names },
                Which::New => Names { new: made, ..state.names },
            };
            state.rename(names);
        });
        Ok(())
    }

    fn append(&mut self, which: Which, bytes: &[u8]) -> Result<()> {
        let failure = self.begin();
        // A full disk takes what fits.
        let taken = if failure.is_some() { bytes.len() / 2 } else { bytes.len() };
        self.end(|state| {
            let file = state.file(which)?;
            let at = file.seen.len();
            file.apply(Operation::Write { at, bytes: bytes[..taken].to_vec() });
            failure.map_or(Ok(()), Err)
        })
    }

    fn write_again(&mut self, bytes: &[u8]) -> Result<()> {
        let failure = self.begin();
        let taken = if failure.is_some() { bytes.len() / 2 } else { bytes.len() };
        self.end(|state| {
            let file = state.file(Which::Log)?;
            file.apply(Operation::Write { at: 0, bytes: bytes[..taken].to_vec() });
            failure.map_or(Ok(()), Err)
        })
    }

    fn cut(&mut self, which: Which, length: u64) -> Result<()> {
        self.begin().map_or(Ok(()), Err)?;
        let length = usize::try_from(length).expect("a log is small");
        self.end(|state| {
            let file = state.file(which)?;
            if length < file.seen.len() {
                file.apply(Operation::Cut(length));
            }
            Ok(())
        })
    }

    fn sync(&mut self, which: Which) -> Result<()> {
        let failure = self.begin();
        self.end(|state| {
            let file = state.file(which)?;
            let pending = std::mem::take(&mut file.pending);
            if let Some(error) = failure {
                return Err(error);
            }
            pending.iter().for_each(|operation| operation.apply(&mut file.durable));
            Ok(())
        })
    }

    fn rename(&mut self) -> Result<()> {
        self.begin().map_or(Ok(()), Err)?;
        self.end(|state| state.rename(Names { log: state.names.new, new: None }));
        Ok(())
    }

    fn remove_new(&mut self) -> Result<()> {
        self.begin().map_or(Ok(()), Err)?;
        self.end(|state| state.rename(Names { new: None, ..state.names }));
        Ok(())
    }

    fn sync_folder(&mut self) -> Result<()> {
        self.begin().map_or(Ok(()), Err)?;
        self.end(|state| {
            state.durable_names = state.names;
            state.pending_names.clear();
        });
        Ok(())
    }
}
