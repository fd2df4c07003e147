//! The code store: downloads the code behind a URL once, keeps it by its digest, and hands out folders that hold it.
mod background;
mod content;
mod download;
mod entry_path;
mod error;
mod form;
mod index;
mod limits;
mod name;
mod shelf;
pub mod unpack;

pub use crate::folder::FolderError as StoreError;
use crate::folder::Staged;
use crate::sync::lock;
pub use error::CodeError;
pub use form::Form;
pub use limits::Limits;

pub(super) use download::shown;
use download::{Download, Downloader, Validators};
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use index::Source;
use name::FileName;
use reqwest::Url;
use shelf::{Lease, Shelf};
use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::sync::Semaphore;

/// Code on this machine, ready to be loaded. It stays there for as long as this or a clone of it lives.
#[derive(Clone, Debug)]
pub struct Code {
    /// SHA-256 of what was downloaded, in hexadecimal.
    pub digest: String,
    /// A folder that holds this code and nothing else, without write permission.
    pub root: PathBuf,
    /// The file in `root` that the agent is to load; `None` for a [`Form::Tree`], which is loaded by names.
    pub entry: Option<PathBuf>,
    /// How it is to be loaded.
    pub form: Form,
    _lease: Arc<Lease>,
}

#[cfg(test)]
impl Code {
    /// Code that is nowhere, for tests of what does not look at it.
    pub(crate) fn without_files() -> Code {
        let _lease = Arc::new(Lease::of_nothing());
        Code { digest: String::new(), root: PathBuf::new(), entry: None, form: Form::Python, _lease }
    }
}

/// The store in one `app_dir`. Clones share it.
#[derive(Clone)]
pub struct CodeStore(Arc<Inner>);

type Fetch = BoxFuture<'static, Result<Code, CodeError>>;

struct Inner {
    limits: Limits,
    shelf: Shelf,
    downloader: Downloader,
    downloads: Semaphore,
    unpacks: Arc<Semaphore>,
    /// Fetches under way by URL; later callers join them.
    under_way: Mutex<HashMap<String, WeakShared<Fetch>>>,
}

impl CodeStore {
    /// Opens the store in `app_dir`, which is created if need be.
    ///
    /// What a crashed run left half-written is removed. A second store with the same `app_dir` is refused for as long
    /// as the first is open, in this process or another.
    pub fn open(app_dir: &Path, limits: Limits) -> Result<CodeStore, StoreError> {
        Ok(CodeStore(Arc::new(Inner {
            shelf: Shelf::open(app_dir, limits.cache_bytes)?,
            downloader: Downloader::new(&limits),
            downloads: Semaphore::new(limits.parallel_downloads),
            unpacks: Arc::new(Semaphore::new(limits.parallel_unpacks)),
            under_way: Mutex::default(),
            limits,
        })))
    }

    /// The folder below which all code lies.
    pub fn folder(&self) -> &Path {
        self.0.shelf.folder()
    }

    /// Ready when all code that was fetched until now outlasts a restart. Dropping the last clone waits for that, too.
    pub async fn settled(&self) {
        self.0.shelf.settled().await;
    }

    /// The code behind an http or https URL.
    ///
    /// Callers that want one URL at one time share a download. A URL that was fetched before, be it by an earlier
    /// run, is only asked whether it changed.
    pub async fn fetch(&self, url: &str) -> Result<Code, CodeError> {
        let url = source_url(url)?;
        self.join(url).await
    }

    /// The fetch of this URL that is under way, or a new one.
    fn join(&self, url: Url) -> Shared<Fetch> {
        let mut under_way = lock(&self.0.under_way);
        let current = under_way.get(url.as_str()).and_then(WeakShared::upgrade);
        if let Some(fetch) = current.filter(|fetch| fetch.peek().is_none()) {
            return fetch;
        }
        under_way.retain(|_, fetch| fetch.upgrade().is_some());
        let key = url.to_string();
        let fetch = Inner::fetch(self.0.clone(), url).boxed().shared();
        under_way.extend(fetch.downgrade().map(|fetch| (key, fetch)));
        fetch
    }
}

impl Inner {
    async fn fetch(self: Arc<Inner>, url: Url) -> Result<Code, CodeError> {
        let closed = |error| CodeError::storage(&shown(&url), "waiting for a turn", io::Error::other(error));
        let known = self.shelf.known(url.as_str());
        let validators =
            known.as_ref().map_or_else(Validators::default, |(source, _)| source.validators.clone());
        let answer = {
            let _turn = self.downloads.acquire().await.map_err(closed)?;
            self.downloader.get(&url, &validators, &self.shelf.partial()).await?
        };
        let turn = self.unpacks.clone().acquire_owned().await.map_err(closed)?;
        let at = url.clone();
        let store = self.clone();
        // The turn ends with the work, even if nobody waits for it any more.
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if let Some(download) = answer {
                // The version before may go now, if room is needed.
                drop(known);
                return store.take_in(&at, download);
            }
            let Some((source, lease)) = known else {
                let status = "304 Not Modified, unasked".into();
                return Err(CodeError::Status { url: shown(&at), status });
            };
            store.code(&at, &source, lease)
        });
        work.await
            .unwrap_or_else(|error| Err(CodeError::storage(&shown(&url), "storing", io::Error::other(error))))
    }

    /// Stores a complete download, unless its bytes are there already.
    fn take_in(&self, url: &Url, download: Download) -> Result<Code, CodeError> {
        let failed = |doing: &'static str| {
            let url = shown(url);
            move |error| CodeError::storage(&url, doing, error)
        };
        let head = form::head(&download.file).map_err(failed("reading the download"))?;
        let name = FileName::of_download(url, download.disposition.as_deref(), &download.last);
        let (form, name) = form::identify(&name, &head).map_err(|mismatch| CodeError::Content {
            url: shown(url),
            expected: mismatch.expected,
            found: mismatch.found,
        })?;
        let (digest, validators) = (download.digest.clone(), download.validators.clone());
        let source = Source { digest, form, name: name.text(), validators };
        let variant = source.variant();
        let lease = match self.shelf.find(&source.digest, &variant) {
            Some(lease) => lease,
            None => {
                let staged = Staged::new(&self.shelf.partial()).map_err(failed("making a folder"))?;
                let bytes = content::fill(staged.path(), download, &source, &self.limits)
                    .map_err(|error| CodeError::unpacking(&shown(url), error))?;
                self.shelf
                    .place(&source.digest, &variant, staged, bytes)
                    .map_err(failed("moving the code to its place"))?
            }
        };
        let code = self.code(url, &source, lease)?;
        // The code is there and good, whatever becomes of the rest.
        self.shelf.remember(url.as_str(), source);
        if let Err(error) = self.shelf.evict() {
            tracing::warn!(%error, "cannot remove unused code from the store");
        }
        Ok(code)
    }

    fn code(&self, url: &Url, source: &Source, lease: Arc<Lease>) -> Result<Code, CodeError> {
        let root = self.shelf.root(&lease, &source.variant());
        let (form, root, entry) = match source.form {
            Form::Tree => {
                let stem = source.name.trim_end_matches(".zip");
                form::resolve_tree(&root, stem)
                    .map_err(|error| CodeError::storage(&shown(url), "reading the unpacked code", error))?
            }
            form => (form, root.clone(), Some(root.join(&source.name))),
        };
        Ok(Code { digest: lease.digest().to_owned(), root, entry, form, _lease: lease })
    }
}

/// The URL to fetch, without its fragment, which no server gets to see.
fn source_url(text: &str) -> Result<Url, CodeError> {
    let refused = |url: &str, reason: String| CodeError::Url { url: url.into(), reason };
    // What cannot be parsed cannot be relieved of a password: it is not repeated if it may hold one.
    let plain = if text.contains('@') { "(not shown)" } else { text };
    let mut url = Url::parse(text).map_err(|error| refused(plain, error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(refused(&shown(&url), format!("`{}` is not supported", url.scheme())));
    }
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests;
