//! Why a snapshot is not used, and why one cannot be made. Each is one sentence for the log and for the user.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::bytes::readable;
use crate::vmm::CpuMismatch;

/// A snapshot that is there and is not used.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot with svmid {svmid} is not used: {reason}")]
pub struct Refusal {
    /// Its number.
    pub svmid: u64,
    /// Why.
    pub reason: Reason,
}

/// The files of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// `manifest.json`: what the snapshot is of, and the checksums of the other two.
    Manifest,
    /// `memory`: the guest's RAM, sparse, each byte at its guest-physical address.
    Memory,
    /// `state`: threads, files and all else that is not in RAM.
    State,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 3] = [Part::Manifest, Part::Memory, Part::State];

    /// Its name in the snapshot's folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Part::Manifest => "manifest.json",
            Part::Memory => "memory",
            Part::State => "state",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file_name())
    }
}

/// Why a snapshot is not used.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// A file is not there.
    #[error("its file `{0}` is missing")]
    Missing(Part),
    /// The operating system does not give a file out.
    #[error("its file `{part}` cannot be read: {source}")]
    Unreadable {
        /// Which.
        part: Part,
        /// What the operating system answered.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("its file `{part}` is damaged: {how}")]
    Damaged {
        /// Which.
        part: Part,
        /// What is wrong with it.
        how: String,
    },
    /// Another version of Hydra wrote it in another form.
    #[error("it is of format {found}, and this Hydra reads format {read}")]
    Format {
        /// Of the snapshot.
        found: u64,
        /// Of this Hydra.
        read: u64,
    },
    /// Another build of Hydra wrote it.
    #[error("Hydra {was} made it, and this is {is}")]
    Build {
        /// Its maker.
        was: String,
        /// This one.
        is: String,
    },
    /// Its folder has another's name.
    #[error("its manifest says that its svmid is {0}")]
    Svmid(u64),
    /// Another function has the same number.
    #[error("it is of the function `{was}`, and one of `{is}` is wanted")]
    Function {
        /// Of the snapshot.
        was: String,
        /// Wanted.
        is: String,
    },
    /// The function is in another language now.
    #[error("it is of a function in {was}, and one in {is} is wanted")]
    Language {
        /// Of the snapshot.
        was: String,
        /// Wanted.
        is: String,
    },
    /// The function has other code now.
    #[error("the function's code has changed since it was made")]
    Code,
    /// The interpreter or the agent is another now.
    #[error("the language's runtime or its agent has changed since it was made")]
    Runtime,
    /// The function has other memory now.
    #[error("it has {} of memory, and {} are wanted", readable(*was), readable(*is))]
    Memory {
        /// Of the snapshot, in bytes.
        was: u64,
        /// Wanted.
        is: u64,
    },
    /// Something else that it was started with is different now.
    #[error("it was made with {name} {}, and {} is wanted", quoted(was.as_deref()), quoted(is.as_deref()))]
    Setting {
        /// Which.
        name: String,
        /// When it was made.
        was: Option<String>,
        /// Wanted.
        is: Option<String>,
    },
    /// It was made on a CPU of another maker.
    #[error("it was made on a CPU of {was}, and this is one of {is}")]
    Vendor {
        /// Then.
        was: String,
        /// Now.
        is: String,
    },
    /// What it builds upon is not there any more.
    #[error("the snapshot with svmid {0}, which it builds upon, is gone")]
    NoParent(u64),
    /// What it builds upon was made anew since.
    #[error("the snapshot with svmid {0}, which it builds upon, is another than it was")]
    OtherParent(u64),
    /// What it builds upon cannot be used.
    #[error("the snapshot with svmid {svmid}, which it builds upon, is not usable: {reason}")]
    Parent {
        /// Its number.
        svmid: u64,
        /// Why.
        reason: Box<Reason>,
    },
    /// It was made on a CPU that can do more, or keeps its registers otherwise.
    #[error(transparent)]
    Cpu(#[from] CpuMismatch),
}

fn quoted(value: Option<&str>) -> String {
    value.map_or_else(|| "not set".into(), |value| format!("`{value}`"))
}

/// Why a snapshot could not be saved. Nothing is left of it on the disk, and the one before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The disk is full.
    #[error("the snapshot with svmid {svmid} is not saved: there is no room left for it below `{}`", folder.display())]
    NoRoom {
        /// Its number.
        svmid: u64,
        /// The store's folder.
        folder: PathBuf,
    },
    /// The operating system refuses something else.
    #[error("the snapshot with svmid {svmid} is not saved: cannot {doing} below `{}`: {source}", folder.display())]
    Io {
        /// Its number.
        svmid: u64,
        /// What was being done.
        doing: &'static str,
        /// The store's folder.
        folder: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
}
