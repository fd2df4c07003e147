//! The program's address space: which addresses mean what, and the pages behind them.
//!
//! | file | holds |
//! |---|---|
//! | `space.rs` | the map of regions and the choice of addresses |
//! | `mapped_file.rs` | the host's files behind regions, and the pages that shared mappings of them have in common |
//! | `fault.rs` | page faults, and how many pages one fills |
//! | `fill.rs` | frames for pages, small and large: zeros, or what a file or an object holds |
//! | `change.rs` | un-mapping, protection, moving, giving back |
//! | `trampolines.rs` | code that is rewritten to make system calls without a `syscall` |
//! | `object.rs` | pages that belong to a file: contents of tmpfs and memory files |
//! | `calls.rs` | the system calls |
//! | `saved.rs` | what a checkpoint keeps |
//!
//! A region ([`Region`]) says what an address range is; the guest's page tables say which frame of guest RAM a page has. Pages are made when
//! they are first touched, several at a time, and those of a small region to write to as soon as there is one. Pages of a file mapping are copies of the file in guest RAM, so that a
//! checkpoint is the RAM and nothing else. A page that becomes inaccessible keeps its frame.

pub mod calls;
mod change;
mod fault;
mod fill;
mod mapped_file;
mod object;
mod saved;
mod space;
mod trampolines;

pub use fault::Fault;
pub use mapped_file::MappedFile;
pub use object::{LARGEST, ObjectId, PoolId};
pub use saved::SavedSpace;
pub use space::{AddressSpace, Backing, Placement, Region};
pub use trampolines::{Others, Rewritten};
