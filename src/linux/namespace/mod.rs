//! The composed root: what shows where.
//!
//! | file | holds |
//! |---|---|
//! | `mount.rs` | mounts, and finding the one of a path |
//! | `host.rs` | opening what lies below a host directory, and what of it a guest may have |
//! | `walk.rs` | paths: `..`, symbolic links, from one mount to another |
//! | `place.rs` | what a path leads to, and opening it |
//!
//! Paths are resolved here, not by their text: a symbolic link may lead into another mount, and `..` is the directory that holds the one before it. The
//! usual path has neither, and then one call of the host (`openat2`, which is forbidden to follow links) finds it.

mod host;
mod mount;
mod place;
mod walk;

pub use host::{open_again, reopen};
pub use mount::{Mount, Namespace, SavedMounts, Source};
pub use place::{Node, Place};
pub use walk::{Entry, Found};
