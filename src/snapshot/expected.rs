//! What a snapshot must be of, so that it can be used.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::Reason;
use super::manifest::Manifest;

/// What somebody wants a snapshot of. One that differs in anything is refused and made anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The snapshot's number, unique among functions.
    pub svmid: u64,
    /// The function's name.
    pub function: String,
    /// Its language.
    pub language: String,
    /// Whatever else the program was started with that it does not ask for again, by what a person would call it: the entry
    /// point, the size of its temporary folder, …
    pub settings: BTreeMap<String, String>,
    /// SHA-256 of the function's code, in hexadecimal.
    pub code: String,
    /// Digest of what runs it: see [`runtime_digest`].
    pub runtime: String,
    /// Guest RAM in bytes.
    pub memory: u64,
}

impl Expected {
    /// Whether the snapshot that `manifest` describes is the wanted one.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), Reason> {
        let differs = |was: &String, is: &String| (was != is).then(|| (was.clone(), is.clone()));
        if let Some((was, is)) = differs(&manifest.function, &self.function) {
            return Err(Reason::Function { was, is });
        }
        if let Some((was, is)) = differs(&manifest.language, &self.language) {
            return Err(Reason::Language { was, is });
        }
        if manifest.code_digest != self.code {
            return Err(Reason::Code);
        }
        if manifest.runtime_digest != self.runtime {
            return Err(Reason::Runtime);
        }
        if manifest.memory.bytes != self.memory {
            return Err(Reason::Memory { was: manifest.memory.bytes, is: self.memory });
        }
        let names = manifest.settings.keys().chain(self.settings.keys());
        match names.into_iter().find(|name| manifest.settings.get(*name) != self.settings.get(*name)) {
            Some(name) => Err(Reason::Setting {
                name: name.clone(),
                was: manifest.settings.get(name).cloned(),
                is: self.settings.get(name).cloned(),
            }),
            None => Ok(()),
        }
    }
}

/// Digest of files and of all files in folders, names included, but for Python's caches: of an interpreter and its agent.
///
/// # Errors
/// One of them cannot be read.
pub fn runtime_digest<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> io::Result<String> {
    let mut hasher = Sha256::new();
    for path in paths {
        add(&mut hasher, path.as_ref())?;
    }
    Ok(hex::encode(hasher.finalize()))
}

fn add(hasher: &mut Sha256, path: &Path) -> io::Result<()> {
    let name = path.as_os_str().as_encoded_bytes();
    hasher.update((name.len() as u64).to_le_bytes());
    hasher.update(name);
    if path.is_dir() {
        let entries: io::Result<Vec<PathBuf>> =
            std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut entries = entries?;
        // What Python writes beside its modules when it first runs from there.
        entries.retain(|entry| !entry.ends_with("__pycache__"));
        entries.sort();
        hasher.update((entries.len() as u64).to_le_bytes());
        return entries.iter().try_for_each(|entry| add(hasher, entry));
    }
    let mut file = std::fs::File::open(path)?;
    let mut content = Sha256::new();
    io::copy(&mut file, &mut HashWriter(&mut content))?;
    hasher.update(content.finalize());
    Ok(())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_its_files_and_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let (agent, file) = (folder.path().join("agent"), folder.path().join("agent/a.py"));
        std::fs::create_dir(&agent).unwrap();
        std::fs::write(&file, "1").unwrap();
        let digest = || runtime_digest([Path::new("/proc/self/exe"), &agent]).unwrap();
        let first = digest();
        assert_eq!(digest(), first);
        std::fs::write(&file, "2").unwrap();
        let second = digest();
        assert_ne!(second, first);
        std::fs::create_dir(agent.join("__pycache__")).unwrap();
        std::fs::write(agent.join("__pycache__/a.pyc"), "1").unwrap();
        assert_eq!(digest(), second);
        std::fs::rename(&file, agent.join("b.py")).unwrap();
        assert_ne!(digest(), second);
        assert!(runtime_digest([folder.path().join("missing")]).is_err());
    }
}
