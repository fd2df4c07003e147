//! Dumps of processes on the disk: `FOLDER/SVMID/` holds what CRIU wrote, the files below `/tmp`, and `hydra.json`, what it is of.
//!
//! Only root may enter the folder. A dump is whole when it has its place; one of something else is not used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::folder::{self, FolderError, Staged};
use crate::jail::criu::DumpedAgent;
use crate::sync::lock;

const MANIFEST: &str = "hydra.json";

/// The dumps in one folder.
pub struct Dumps {
    folder: PathBuf,
    /// What a Hydra that was killed left half-written is gone.
    cleared: Mutex<bool>,
}

/// What a dump must be of: CRIU expects the same files and the same kernel.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    /// Its number.
    pub svmid: u64,
    /// The function's name.
    pub function: String,
    /// See [`Spec`](crate::function::Spec).
    pub entry_point: Option<String>,
    /// SHA-256 of the function's code.
    pub code: String,
    /// Digest of the runtime and its agent.
    pub runtime: String,
    /// MiB that the function may use.
    pub memory: u32,
    /// MiB of its `/tmp`.
    pub tmp_mib: u32,
    /// Most bytes of a result.
    pub max_result: usize,
    /// Its time zone, where Hydra was given one.
    pub time_zone: Option<String>,
    /// The version of CRIU.
    pub criu: String,
    /// The kernel's release.
    pub kernel: String,
    /// This Hydra.
    pub hydra: String,
}

/// What is known of a dump.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// What it is of.
    pub of: Expected,
    /// What it takes to restore it.
    pub agent: DumpedAgent,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// How long the process stood still, in microseconds.
    pub pause_us: u64,
}

/// A dump that has its place.
pub struct KeptDump {
    /// Where it lies.
    pub folder: PathBuf,
    /// What is known of it.
    pub manifest: Manifest,
    /// Bytes of the process's memory that are kept.
    pub memory_bytes: u64,
    /// Bytes of all else.
    pub other_bytes: u64,
}

impl Dumps {
    /// Those in `folder`, which is made when it is needed.
    pub fn new(folder: PathBuf) -> Dumps {
        Dumps { folder, cleared: Mutex::new(false) }
    }

    /// The dump that is wanted; `None` if there is none. One of something else stays until another takes its place.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn find(&self, wanted: &Expected) -> Result<Option<KeptDump>, FolderError> {
        self.prepare()?;
        let folder = self.place(wanted.svmid);
        let Ok(text) = fs::read(folder.join(MANIFEST)) else { return Ok(None) };
        match serde_json::from_slice::<Manifest>(&text) {
            Ok(manifest) if manifest.of == *wanted => Ok(KeptDump::new(folder, manifest).ok()),
            _ => {
                tracing::warn!(
                    function = wanted.function,
                    svmid = wanted.svmid,
                    "the dump of that number is of something else; it will be made anew"
                );
                Ok(None)
            }
        }
    }

    /// Where a dump will be written. Dropping it leaves nothing.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn stage(&self) -> io::Result<Staged> {
        Staged::new(&self.partial())
    }

    /// Gives a dump its place, where it replaces the one before.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn keep(
        &self,
        staged: Staged,
        of: Expected,
        agent: DumpedAgent,
        pause: Duration,
    ) -> io::Result<KeptDump> {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let place = self.place(of.svmid);
        let manifest = Manifest { of, agent, created, pause_us: pause.as_micros() as u64 };
        fs::write(staged.path().join(MANIFEST), serde_json::to_vec_pretty(&manifest)?)?;
        // CRIU and cp have written the most of it. None of it is looked at again before a restore.
        folder::sync_file_system(staged.path())?;
        let before = self.stage()?;
        match fs::rename(&place, before.path().join("before")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(staged.path(), &place)?;
        folder::sync(&self.folder)?;
        KeptDump::new(place, manifest)
    }

    fn prepare(&self) -> Result<(), FolderError> {
        let mut cleared = lock(&self.cleared);
        if *cleared {
            return Ok(());
        }
        if let Some(above) = self.folder.parent() {
            folder::shared(above)?;
        }
        folder::own(&self.folder, 0o700)?;
        folder::emptied(&self.partial())?;
        *cleared = true;
        Ok(())
    }

    fn partial(&self) -> PathBuf {
        self.folder.join("partial")
    }

    fn place(&self, svmid: u64) -> PathBuf {
        self.folder.join(svmid.to_string())
    }
}

impl KeptDump {
    fn new(folder: PathBuf, manifest: Manifest) -> io::Result<KeptDump> {
        let (memory_bytes, other_bytes) = sizes(&folder)?;
        Ok(KeptDump { folder, manifest, memory_bytes, other_bytes })
    }
}

/// Bytes of the files that hold memory, and of all others.
fn sizes(folder: &Path) -> io::Result<(u64, u64)> {
    let (mut memory, mut other) = (0, 0);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            let (inner, more) = sizes(&entry.path())?;
            other += inner + more;
        } else if entry.file_name().to_string_lossy().starts_with("pages-") {
            memory += metadata.len();
        } else {
            other += metadata.len();
        }
    }
    Ok((memory, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(function: &str) -> Expected {
        Expected {
            svmid: 7,
            function: function.into(),
            entry_point: None,
            code: "c".into(),
            runtime: "r".into(),
            memory: 64,
            tmp_mib: 8,
            max_result: 1 << 20,
            criu: "3.17".into(),
            kernel: "6.1".into(),
            time_zone: None,
            hydra: "h".into(),
        }
    }

    #[test]
    fn a_dump_is_found_until_another_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let dumps = Dumps::new(folder.path().join("dumps"));
        assert!(dumps.find(&of("one")).unwrap().is_none());
        let agent = DumpedAgent { inodes: [1, 2, 3], user: 4 };
        for function in ["one", "other"] {
            let staged = dumps.stage().unwrap();
            fs::write(staged.path().join("pages-1.img"), function).unwrap();
            fs::create_dir(staged.path().join("tmp")).unwrap();
            dumps.keep(staged, of(function), agent.clone(), Duration::from_millis(1)).unwrap();
            let found = dumps.find(&of(function)).unwrap().unwrap();
            assert_eq!((found.manifest.agent, found.memory_bytes), (agent.clone(), function.len() as u64));
        }
        assert!(dumps.find(&of("one")).unwrap().is_none());
        // Nothing stays of what was replaced, or was half-written when Hydra was killed.
        let half = dumps.stage().unwrap();
        std::mem::forget(half);
        let again = Dumps::new(folder.path().join("dumps"));
        assert!(again.find(&of("other")).unwrap().is_some());
        assert_eq!(fs::read_dir(again.partial()).unwrap().count(), 0);
    }
}
