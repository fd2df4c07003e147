//! Snapshots on disk: programs that were stopped in the middle, to go on any number of times.
//!
//! A [`Store`] keeps them in a folder, one folder each, named by its number, the *svmid*. [`Store::stage`] makes room for
//! one, [`Staging::write`] copies a program that stands still, [`Draft::commit`] makes that a [`Snapshot`] when the program goes on again. [`Store::find`] gives the one that
//! [`Expected`] describes, or says in a [`Refusal`] why what is there will not do.
//!
//! | file | holds |
//! |---|---|
//! | `store.rs` | the store, for the one Hydra that has its lock |
//! | `shelf.rs` | what lies where; looking and removing without the lock |
//! | `draft.rs`, `copy.rs` | writing |
//! | `opened.rs`, `working_set.rs` | a snapshot ready to be restored, and what programs touch first |
//! | `manifest.rs`, `page_runs.rs`, `checksum.rs` | the format |
//! | `expected.rs` | what a snapshot must be of |
//! | `error.rs`, `bytes.rs` | what can go wrong, in sentences |
//! | `command.rs` | `hydra snapshot` |
//!
//! A snapshot may build upon another, its *parent*: its file `memory` holds but the pages that differ. The parent is whole by itself. It may be
//! removed or replaced like any other; who builds upon it is then refused with the reason, unless it is open.
//!
//! # What is promised
//! - A Hydra that is killed at any moment leaves the snapshot that was there before, or the new one, or none; never half of one.
//! - A snapshot that is damaged in any bit, or made of other code, another runtime, another Hydra or a CPU that can do more, is refused
//!   with the reason.
//! - A snapshot in use may be removed or replaced: whoever has it open keeps it.
//!
//! What is not promised: the files are as trusted as Hydra's own executable. Checksums find damage, not forgery, and who
//! shortens the file `memory` while programs run from it ends Hydra. The folder is for the user alone who runs Hydra.

mod bytes;
mod checksum;
pub mod command;
mod copy;
mod draft;
mod error;
mod expected;
mod manifest;
mod opened;
mod page_runs;
mod shelf;
mod store;
mod working_set;

pub use checksum::Checksum;
pub use copy::{Copied, CopyRoom, ProgramCopy};
pub use draft::{Draft, Staging, Step};
pub use error::{Part, Reason, Refusal, SaveError};
pub use expected::{Expected, runtime_digest};
pub use manifest::{BUILD, FORMAT, Manifest, MemoryFile, Parent, StateFile};
pub use opened::Snapshot;
pub use page_runs::PageRuns;
pub use shelf::Shelf;
pub use store::Store;

#[cfg(test)]
mod tests;
