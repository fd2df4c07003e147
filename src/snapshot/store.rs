//! The snapshots that this Hydra makes and restores, by number.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use nix::fcntl::Flock;

use super::draft::{Staging, Step};
use super::error::{Reason, Refusal, SaveError};
use super::expected::Expected;
use super::manifest::Manifest;
use super::opened::Snapshot;
use super::shelf::{Files, Shelf};
use crate::folder::{self, FolderError, Staged};
use crate::sync::lock;
use crate::vmm::Cpu;

/// The store in one folder. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

pub(super) struct Inner {
    pub shelf: Shelf,
    pub cpu: Cpu,
    observer: Box<dyn Fn(Step) + Send + Sync>,
    slots: Mutex<HashMap<u64, Slot>>,
    _lock: Flock<File>,
}

/// The snapshot of a number, if anybody has it open. Locked while it is looked for or replaced.
type Slot = Arc<Mutex<Weak<Snapshot>>>;

impl Store {
    /// Opens the store in `folder`, which is created if need be, for programs that run on `cpu`.
    ///
    /// What a Hydra that was killed left half-written is removed.
    ///
    /// # Errors
    /// The folder cannot be made or used, or another store has it open, in this process or another.
    pub fn open(folder: &Path, cpu: Cpu) -> Result<Store, FolderError> {
        Store::observed(folder, cpu, |_| {})
    }

    /// As [`Store::open`]; calls `observer` at each step of writing a snapshot.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn observed(
        folder: &Path,
        cpu: Cpu,
        observer: impl Fn(Step) + Send + Sync + 'static,
    ) -> Result<Store, FolderError> {
        if let Some(above) = folder.parent().filter(|above| *above != Path::new("")) {
            folder::shared(above)?;
        }
        folder::own(folder, 0o700)?;
        let lock = folder::lock(folder)?;
        let shelf = Shelf::new(folder);
        folder::emptied(&shelf.partial())?;
        let observer = Box::new(observer);
        Ok(Store(Arc::new(Inner { shelf, cpu, observer, slots: Mutex::default(), _lock: lock })))
    }

    /// Makes room for a snapshot of a program that is to be stopped. With a `parent` that is whole by itself, but the pages are kept that differ from it.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn stage(&self, expected: &Expected, parent: Option<&Arc<Snapshot>>) -> Result<Staging, SaveError> {
        self.stage_for_another(expected, parent)?.with_room()
    }

    /// The same for a program that another process will copy.
    ///
    /// # Errors
    /// As [`Store::stage`].
    pub fn stage_for_another(
        &self,
        expected: &Expected,
        parent: Option<&Arc<Snapshot>>,
    ) -> Result<Staging, SaveError> {
        Staging::new(self.0.clone(), expected, parent.cloned())
    }

    /// The snapshot of that number; `None` if there is none.
    ///
    /// It is verified to the last byte when nobody has it open, which reads all of it; and so is the one that it builds upon.
    ///
    /// # Errors
    /// It is of something else, made for another CPU or by another Hydra, or damaged. It stays where it is: saving a new one
    /// replaces it.
    pub fn find(&self, expected: &Expected) -> Result<Option<Arc<Snapshot>>, Refusal> {
        let svmid = expected.svmid;
        let slot = self.0.slot(svmid);
        let mut held = lock(&slot);
        if let Some(snapshot) = held.upgrade().filter(|found| self.0.shelf.holds(svmid, found.memory())) {
            return match expected.check(snapshot.manifest()) {
                Ok(()) => Ok(Some(snapshot)),
                Err(reason) => Err(Refusal { svmid, reason }),
            };
        }
        let files = self.0.shelf.open(svmid, |manifest| {
            expected.check(manifest)?;
            can_run(&self.0.cpu, &manifest.cpu)
        })?;
        let open = |files: Files| {
            let parent =
                files.manifest.parent.is_some().then(|| self.0.parent(&files.manifest)).transpose()?;
            Snapshot::new(files, parent).map(Arc::new)
        };
        let snapshot = files.map(open).transpose().map_err(|reason| Refusal { svmid, reason })?;
        *held = snapshot.as_ref().map(Arc::downgrade).unwrap_or_default();
        Ok(snapshot)
    }

    /// Whether the snapshot has its place here: nobody has removed or replaced it.
    pub fn has(&self, snapshot: &Snapshot) -> bool {
        self.0.shelf.holds(snapshot.manifest().svmid, snapshot.memory())
    }

    /// What there is, without the right to change it.
    pub fn shelf(&self) -> &Shelf {
        &self.0.shelf
    }

    /// Takes a snapshot away; false if there is none. Programs that were restored from it go on.
    ///
    /// # Errors
    /// The operating system refuses it.
    pub fn remove(&self, svmid: u64) -> io::Result<bool> {
        let slot = self.0.slot(svmid);
        let mut held = lock(&slot);
        *held = Weak::new();
        self.0.shelf.remove(svmid)
    }
}

impl Inner {
    /// The slot of a number. Those that nobody uses are forgotten now and then.
    fn slot(&self, svmid: u64) -> Slot {
        let mut slots = lock(&self.slots);
        if slots.len() == slots.capacity() {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(slot).strong_count() > 0);
        }
        slots.entry(svmid).or_default().clone()
    }

    /// What the snapshot of `child` builds upon.
    fn parent(&self, child: &Manifest) -> Result<Arc<Snapshot>, Reason> {
        let named = child.parent.as_ref().ok_or(Reason::NoParent(child.svmid))?;
        if named.svmid == child.svmid {
            return Err(Reason::OtherParent(named.svmid));
        }
        let slot = self.slot(named.svmid);
        let mut held = lock(&slot);
        let open = held.upgrade();
        let is_it = |open: &Arc<Snapshot>| open.manifest().memory.checksum == named.checksum;
        if let Some(parent) = open.clone().filter(is_it) {
            return Ok(parent);
        }
        let parent = Arc::new(Snapshot::new(self.shelf.open_parent(child)?, None)?);
        if open.is_none() {
            *held = Arc::downgrade(&parent);
        }
        Ok(parent)
    }

    /// Gives a complete snapshot its place. The one before is in `staged` then.
    pub(super) fn place(&self, snapshot: &Arc<Snapshot>, staged: &Staged) -> io::Result<()> {
        let svmid = snapshot.manifest().svmid;
        let slot = self.slot(svmid);
        let mut held = lock(&slot);
        self.shelf.place(staged.path(), svmid)?;
        *held = Arc::downgrade(snapshot);
        self.reached(Step::Placed);
        self.shelf.sync()?;
        self.reached(Step::Durable);
        Ok(())
    }

    pub(super) fn reached(&self, step: Step) {
        (self.observer)(step);
    }

    /// For `map_err` on an operation of saving.
    pub(super) fn failed(&self, svmid: u64, doing: &'static str) -> impl FnOnce(io::Error) -> SaveError {
        let folder = self.shelf.folder().to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SaveError::NoRoom { svmid, folder },
            _ => SaveError::Io { svmid, doing, folder, source },
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.0.shelf.folder()).finish_non_exhaustive()
    }
}

/// Whether a program that began on the CPU `made_on` can go on on `here`.
fn can_run(here: &Cpu, made_on: &Cpu) -> Result<(), Reason> {
    if made_on.vendor != here.vendor {
        return Err(Reason::Vendor { was: made_on.vendor.clone(), is: here.vendor.clone() });
    }
    Ok(made_on.check(here)?)
}
