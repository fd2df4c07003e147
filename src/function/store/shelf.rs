//! The store on disk: what lies where, what is complete, who uses it, what is removed.
//!
//! ```text
//! APP_DIR/lock                       locked by the one Hydra that uses APP_DIR; holds its process id
//! APP_DIR/code/index.json            what each URL gave last, see `index`
//! APP_DIR/code/partial/              what is being written; emptied at start
//! APP_DIR/code/DIGEST/VARIANT/root/  the code, without write permission; VARIANT is `tree` or `file-NAME`
//! APP_DIR/code/DIGEST/VARIANT/bytes  its size in bytes, decimal
//! ```
//! A variant is written in `partial` and renamed, and can be used from then on. In the background it is synced, and gets its file `bytes`: a
//! variant without that may have lost something when the power failed, and does not count. Several variants are the same bytes under
//! several names.
use super::{
    StoreError,
    background::Background,
    index::{Index, Source},
};
use crate::folder::{self, Staged, remove_tree};
use crate::sync::lock;
use nix::fcntl::Flock;
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// Keeps the code of one digest from being removed.
#[derive(Debug)]
pub(super) struct Lease {
    digest: String,
}

impl Lease {
    #[cfg(test)]
    pub(super) fn of_nothing() -> Lease {
        Lease { digest: String::new() }
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }
}

pub(super) struct Shelf {
    folder: PathBuf,
    cache_bytes: u64,
    state: Arc<Mutex<State>>,
    /// Whether the index is to be written and has not been begun.
    index_due: Arc<AtomicBool>,
    /// Before the lock: what it does belongs to this store.
    background: Background,
    _lock: Flock<File>,
}

struct State {
    index: Index,
    /// Sizes in bytes by variant, by digest.
    held: HashMap<String, BTreeMap<String, u64>>,
    leases: HashMap<String, Weak<Lease>>,
}

impl Shelf {
    /// Opens the store in `app_dir`, which is created if need be. What a crashed run left half-written is removed.
    pub(super) fn open(app_dir: &Path, cache_bytes: u64) -> Result<Shelf, StoreError> {
        folder::shared(app_dir)?;
        let lock = folder::lock(app_dir)?;
        let folder = app_dir.join("code");
        // Process sandboxes run as another user: they must get to their own code, by the path that they are told.
        folder::own(&folder, 0o755)?;
        // Agents take it for the real path: runtimes tell modules apart by it.
        let folder = folder.canonicalize().map_err(StoreError::io("find", &folder))?;
        folder::emptied(&folder.join("partial"))?;
        let held = scan(&folder).map_err(StoreError::io("read", &folder))?;
        let mut index = Index::load(&folder);
        index.retain(|source| {
            held.get(&source.digest).is_some_and(|variants| variants.contains_key(&source.variant()))
        });
        let state = Arc::new(Mutex::new(State { index, held, leases: HashMap::new() }));
        let background = Background::start().map_err(StoreError::io("start a thread for", &folder))?;
        Ok(Shelf { folder, cache_bytes, state, index_due: Arc::default(), background, _lock: lock })
    }

    /// Where all code lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where half-written files belong.
    pub(super) fn partial(&self) -> PathBuf {
        self.folder.join("partial")
    }

    /// The folder of a variant's code.
    pub(super) fn root(&self, lease: &Lease, variant: &str) -> PathBuf {
        self.folder.join(&lease.digest).join(variant).join("root")
    }

    /// What a URL gave last, if it is still there.
    pub(super) fn known(&self, url: &str) -> Option<(Source, Arc<Lease>)> {
        let mut state = self.state();
        let source = state.index.get(url)?.clone();
        let lease = self.find_in(&mut state, &source.digest, &source.variant())?;
        Some((source, lease))
    }

    /// The complete code of a digest.
    pub(super) fn find(&self, digest: &str, variant: &str) -> Option<Arc<Lease>> {
        self.find_in(&mut self.state(), digest, variant)
    }

    fn find_in(&self, state: &mut State, digest: &str, variant: &str) -> Option<Arc<Lease>> {
        state.held.get(digest)?.get(variant)?;
        // Someone may have tidied up by hand.
        if !self.folder.join(digest).join(variant).join("root").is_dir() {
            state.held.get_mut(digest)?.remove(variant);
            return None;
        }
        Some(state.lease(digest))
    }

    /// Gives a variant, complete in `staged/root`, its place. If it has one already, that one stays.
    pub(super) fn place(
        &self,
        digest: &str,
        variant: &str,
        staged: Staged,
        bytes: u64,
    ) -> io::Result<Arc<Lease>> {
        let home = self.folder.join(digest);
        let target = home.join(variant);
        let lease = {
            let mut state = self.state();
            if let Some(lease) = self.find_in(&mut state, digest, variant) {
                return Ok(lease);
            }
            match DirBuilder::new().mode(0o711).create(&home) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            remove_tree(&target)?;
            fs::set_permissions(staged.path(), Permissions::from_mode(0o711))?;
            fs::rename(staged.path(), &target)?;
            state.held.entry(digest.into()).or_default().insert(variant.into(), bytes);
            state.lease(digest)
        };
        let (all, of) = (self.folder.clone(), digest.to_owned());
        self.background.run(move || {
            match seal(&target, bytes).and_then(|()| folder::sync(&home)).and_then(|()| folder::sync(&all)) {
                // Nobody used it any more, and it was removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(digest = of, %error, "code is not kept: after a restart it is downloaded again");
                }
                Ok(()) => {}
            }
        });
        Ok(lease)
    }

    /// Notes what a URL gave, and has the index written.
    pub(super) fn remember(&self, url: &str, source: Source) {
        self.state().index.put(url, source);
        if self.index_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let (folder, partial) = (self.folder.clone(), self.partial());
        let (state, due) = (self.state.clone(), self.index_due.clone());
        self.background.run(move || {
            due.store(false, Ordering::Release);
            let text = lock(&state).index.text();
            if let Err(error) = Index::write(&folder, &partial, &text) {
                tracing::warn!(%error, "cannot write the code store's index; after a restart code is downloaded again");
            }
        });
    }

    /// Ready when all that was taken in outlasts a restart.
    pub(super) fn settled(&self) -> impl Future<Output = ()> + use<> {
        self.background.done()
    }

    /// Removes what nobody uses, the least recently used first, until the rest is within the bound.
    pub(super) fn evict(&self) -> io::Result<()> {
        let mut removed = Vec::new();
        {
            let mut state = self.state();
            let mut total: u64 = state.held.values().flat_map(BTreeMap::values).sum();
            for digest in state.unused() {
                if total <= self.cache_bytes {
                    break;
                }
                let grave = Staged::new(&self.partial())?;
                fs::rename(self.folder.join(&digest), grave.path().join("code"))?;
                total -= state.held.remove(&digest).iter().flat_map(BTreeMap::values).sum::<u64>();
                state.index.retain(|source| source.digest != digest);
                tracing::debug!(digest, "removed unused code from the store");
                removed.push(grave);
            }
            if total > self.cache_bytes {
                tracing::warn!(
                    bytes = total,
                    limit = self.cache_bytes,
                    "code in use exceeds the store's limit"
                );
            }
        }
        // Deleting takes its time; the state is free meanwhile.
        drop(removed);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, a panic in between included.
        lock(&self.state)
    }
}

impl State {
    fn lease(&mut self, digest: &str) -> Arc<Lease> {
        self.index.touch(digest);
        if let Some(lease) = self.leases.get(digest).and_then(Weak::upgrade) {
            return lease;
        }
        self.leases.retain(|_, lease| lease.strong_count() > 0);
        let lease = Arc::new(Lease { digest: digest.into() });
        self.leases.insert(digest.into(), Arc::downgrade(&lease));
        lease
    }

    /// Digests that nobody holds, the least recently used first.
    fn unused(&self) -> Vec<String> {
        let is_unused =
            |digest: &&String| self.leases.get(*digest).is_none_or(|lease| lease.strong_count() == 0);
        let mut unused: Vec<String> = self.held.keys().filter(is_unused).cloned().collect();
        unused.sort_by_key(|digest| self.index.last_use(digest));
        unused
    }
}

/// Makes a variant outlast a failure of the power.
fn seal(variant: &Path, bytes: u64) -> io::Result<()> {
    // One call for all files of a tree, instead of a journal commit for each.
    nix::unistd::syncfs(File::open(variant)?)?;
    let mut size = File::create_new(variant.join("bytes"))?;
    size.write_all(bytes.to_string().as_bytes())?;
    size.sync_all()?;
    folder::sync(variant)
}

/// The complete variants, by digest. What is not one is removed.
fn scan(folder: &Path) -> io::Result<HashMap<String, BTreeMap<String, u64>>> {
    let mut held = HashMap::new();
    for home in fs::read_dir(folder)? {
        let home = home?;
        let digest = home.file_name().to_string_lossy().into_owned();
        if digest.len() != 64 || hex::decode(&digest).is_err() {
            continue;
        }
        let mut variants = BTreeMap::new();
        for variant in fs::read_dir(home.path())? {
            let path = variant?.path();
            let bytes = fs::read_to_string(path.join("bytes")).ok().and_then(|text| text.parse().ok());
            match (path.file_name().and_then(|name| name.to_str()), bytes) {
                (Some(name), Some(bytes)) if path.join("root").is_dir() => {
                    variants.insert(name.to_owned(), bytes);
                }
                _ => remove_tree(&path)?,
            }
        }
        if variants.is_empty() {
            remove_tree(&home.path())?;
        } else {
            held.insert(digest, variants);
        }
    }
    Ok(held)
}
