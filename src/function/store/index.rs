//! What each URL gave last and when each code was last used. Losing it costs downloads, nothing else.
use super::{download::Validators, form::Form, name::FileName};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
};
use tempfile::NamedTempFile;

/// What a URL gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Source {
    /// SHA-256 of the body, in hexadecimal.
    pub digest: String,
    /// The body's form; [`Form::Tree`] for every zip.
    pub form: Form,
    /// The body's file name, safe.
    pub name: String,
    #[serde(flatten)]
    pub validators: Validators,
}

impl Source {
    /// The name of the folder that holds this code, below its digest's. A zip's own name does not show in its tree.
    pub(super) fn variant(&self) -> String {
        match self.form {
            Form::Tree => "tree".into(),
            _ => format!("file-{}", self.name),
        }
    }
}

const FILE: &str = "index.json";
const VERSION: u32 = 1;
/// Most URLs that are remembered. Signed URLs differ each time, and would pile up.
const URLS: usize = 10_000;

/// The index in memory, and as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    /// Counts uses; a clock that never jumps.
    clock: u64,
    /// The clock at each digest's last use.
    used: BTreeMap<String, u64>,
    urls: BTreeMap<String, Source>,
}

impl Index {
    /// Reads the index; an unreadable one counts as empty.
    pub(super) fn load(folder: &Path) -> Index {
        let empty = Index { version: VERSION, clock: 0, used: BTreeMap::new(), urls: BTreeMap::new() };
        let text = match fs::read(folder.join(FILE)) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "the code store's index cannot be read; code is downloaded again");
                }
                return empty;
            }
        };
        match serde_json::from_slice::<Index>(&text) {
            Ok(index) if index.version == VERSION => index,
            Ok(index) => {
                tracing::warn!(
                    version = index.version,
                    "the code store's index has another format; it is made anew"
                );
                empty
            }
            Err(error) => {
                tracing::warn!(%error, "the code store's index is damaged; it is made anew");
                empty
            }
        }
    }

    /// Replaces the index on disk: the old one or the new one is there, whatever happens.
    pub(super) fn write(folder: &Path, partial: &Path, text: &[u8]) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(partial)?;
        file.write_all(text)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(FILE))?;
        crate::folder::sync(folder)
    }

    /// The index as it is written.
    pub(super) fn text(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("maps with string keys are always JSON")
    }

    pub(super) fn get(&self, url: &str) -> Option<&Source> {
        // A name that we would not have written could lead out of the store.
        self.urls.get(url).filter(|source| FileName::parse(&source.name).is_some())
    }

    pub(super) fn put(&mut self, url: &str, source: Source) {
        self.touch(&source.digest);
        self.urls.insert(url.into(), source);
        if self.urls.len() > URLS {
            let oldest = self.urls.iter().min_by_key(|(_, source)| self.last_use(&source.digest));
            let oldest = oldest.map(|(url, _)| url.clone()).filter(|oldest| oldest != url);
            self.urls.retain(|url, _| Some(url) != oldest.as_ref());
        }
    }

    /// Notes a use of the code.
    pub(super) fn touch(&mut self, digest: &str) {
        self.clock += 1;
        self.used.insert(digest.into(), self.clock);
    }

    /// Larger for a later use; 0 if there was none.
    pub(super) fn last_use(&self, digest: &str) -> u64 {
        self.used.get(digest).copied().unwrap_or(0)
    }

    /// Forgets the URLs whose source does not satisfy `keep`, and the uses of code that no URL names.
    pub(super) fn retain(&mut self, keep: impl Fn(&Source) -> bool) {
        self.urls.retain(|_, source| keep(source));
        let urls = &self.urls;
        self.used.retain(|digest, _| urls.values().any(|source| source.digest == *digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(digest: &str) -> Source {
        Source {
            digest: digest.into(),
            form: Form::Python,
            name: "hello.py".into(),
            validators: Validators { etag: Some("\"1\"".into()), last_modified: None },
        }
    }

    #[test]
    fn is_read_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = Index::load(folder.path());
        index.put("http://h/a.py", source("aa"));
        index.put("http://h/b.py", source("bb"));
        index.touch("aa");
        Index::write(folder.path(), folder.path(), &index.text()).unwrap();
        let read = Index::load(folder.path());
        assert_eq!(read.get("http://h/a.py"), Some(&source("aa")));
        assert!(read.last_use("aa") > read.last_use("bb"));
        assert_eq!(read.text(), index.text());
    }

    #[test]
    fn damage_counts_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "{", "[]", r#"{"version":2,"clock":0,"used":{},"urls":{}}"#] {
            fs::write(folder.path().join(FILE), text).unwrap();
            assert!(Index::load(folder.path()).urls.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_name_that_leads_out_is_not_believed() {
        let mut index = Index::load(Path::new("/nonexistent"));
        index.put("u", Source { name: "../../x.py".into(), ..source("aa") });
        assert_eq!(index.get("u"), None);
    }
}
