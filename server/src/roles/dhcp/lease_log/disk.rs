//! Shell: every file operation of the lease log, and no other, behind one small trait.
//!
//! So that a test can put a simulated disk in its place that fails or loses power at any of them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The two files of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The log itself.
    Log,
    /// The one that is about to replace it.
    New,
}

/// A folder with a lease log in it. Only [`Disk::sync`] and [`Disk::sync_folder`] make anything
/// durable: the first a file's bytes, the second which file has which name.
pub trait Disk {
    /// Takes the log for this process alone; `false` when another process has it.
    ///
    /// # Errors
    /// When it cannot be known.
    fn lock(&mut self) -> io::Result<bool>;
    /// The log's bytes; `None` when there is no log.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>>;
    /// Makes an empty file of that name, whatever was there.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&mut self, which: Which) -> io::Result<()>;
    /// Adds to a file's end.
    ///
    /// # Errors
    /// When not all of it was taken; any part may be there then.
    fn append(&mut self, which: Which, bytes: &[u8]) -> io::Result<()>;
    /// Writes the log's first bytes again, as they are: a sync that failed in an earlier process may
    /// have left them in memory only, and no later one would save them.
    ///
    /// # Errors
    /// When they are not all written.
    fn write_again(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file to this length.
    ///
    /// # Errors
    /// When it is not cut.
    fn cut(&mut self, which: Which, length: u64) -> io::Result<()>;
    /// Waits until a file's bytes are durable.
    ///
    /// # Errors
    /// When they are not for certain.
    fn sync(&mut self, which: Which) -> io::Result<()>;
    /// Gives [`Which::New`] the name of the log.
    ///
    /// # Errors
    /// When it has not got it.
    fn rename(&mut self) -> io::Result<()>;
    /// Deletes [`Which::New`].
    ///
    /// # Errors
    /// When it is still there.
    fn remove_new(&mut self) -> io::Result<()>;
    /// Waits until the names are durable.
    ///
    /// # Errors
    /// When they are not for certain.
    fn sync_folder(&mut self) -> io::Result<()>;
}

/// The machine's disk.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    log: Option<File>,
    new: Option<File>,
    /// Locked as long as this value lives. A file of its own, since the log is replaced.
    lock: Option<File>,
}

impl RealDisk {
    /// The log at `path`; nothing is opened yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), log: None, new: None, lock: None }
    }

    fn name(&self, which: Which) -> PathBuf {
        match which {
            Which::Log => self.path.clone(),
            Which::New => self.path.with_extension("new"),
        }
    }

    /// The open file; opened where it has to be.
    fn file(&mut self, which: Which) -> io::Result<&mut File> {
        let name = self.name(which);
        let slot = match which {
            Which::Log => &mut self.log,
            Which::New => &mut self.new,
        };
        match slot {
            Some(file) => Ok(file),
            None => Ok(slot.insert(OpenOptions::new().read(true).append(true).open(name)?)),
        }
    }
}

impl Disk for RealDisk {
    fn lock(&mut self) -> io::Result<bool> {
        let name = self.path.with_extension("lock");
        let file = OpenOptions::new().append(true).create(true).open(name)?;
        match file.try_lock() {
            Ok(()) => {
                self.lock = Some(file);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let file = match self.file(Which::Log) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn create(&mut self, which: Which) -> io::Result<()> {
        let name = self.name(which);
        let file = OpenOptions::new().append(true).create(true).open(name)?;
        file.set_len(0)?;
        match which {
            Which::Log => self.log = Some(file),
            Which::New => self.new = Some(file),
        }
        Ok(())
    }

    fn append(&mut self, which: Which, bytes: &[u8]) -> io::Result<()> {
        self.file(which)?.write_all(bytes)
    }

    fn write_again(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Not through the other handle, which only ever appends.
        OpenOptions::new().write(true).open(self.name(Which::Log))?.write_all(bytes)
    }

    fn cut(&mut self, which: Which, length: u64) -> io::Result<()> {
        self.file(which)?.set_len(length)
    }

    fn sync(&mut self, which: Which) -> io::Result<()> {
        self.file(which)?.sync_data()
    }

    fn rename(&mut self) -> io::Result<()> {
        std::fs::rename(self.name(Which::New), self.name(Which::Log))?;
        self.log = self.new.take();
        Ok(())
    }

    fn remove_new(&mut self) -> io::Result<()> {
        self.new = None;
        std::fs::remove_file(self.name(Which::New))
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}
