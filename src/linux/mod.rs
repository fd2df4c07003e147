//! The guest's Linux: serves the system calls of one program in a microVM.
//!
//! # How it is put together
//! [`Guest`] makes a VM, loads a program and runs it. [`Kernel`] is the state that the program's threads share. A *handler* is a
//! function from a [`Ctx`] (the kernel, the calling thread, its vCPU) and six [`Args`] to a number or an [`Errno`]. The table that
//! leads from numbers to handlers is `kernel-config/syscalls.toml`; a call that is not in it, or is refused there, fails as Linux would
//! fail it and is logged once.
//!
//! | area | files |
//! |---|---|
//! | starting | `guest.rs`, `loader.rs`, `vdso.rs`; `direct.rs` without a machine |
//! | dispatch | `table.rs`, `context.rs`, `errno.rs`, `trace.rs` |
//! | threads | `thread.rs` the record, `sched/` who runs where, `worker.rs` the loop around a vCPU, `exitless/` calls that do not leave it, `call_sites.rs` calls that need no `syscall`, `reactor.rs` events from outside, `futex.rs`, `thread_calls.rs`, `membarrier.rs` |
//! | memory | `mm/`, `user.rs` guest addresses to host slices |
//! | signals | `signal/`, `timer.rs` |
//! | files | `file.rs` the trait, `descriptor.rs`, `io.rs`, `copy.rs`, `host_file.rs`, `host_fd.rs` how many there may be, `shared_files.rs`, `directory.rs`, `listing.rs`, `text.rs`, `memfd.rs`, `lock/`, `ioctl.rs`, `tmpfs/` the file system in guest RAM |
//! | paths | `namespace/` the composed root and the walk, `open.rs`, `path_calls/`, `stat.rs`, `attributes.rs`, `proc.rs` |
//! | objects | `pipe.rs`, `eventfd.rs`, `timerfd.rs`, `epoll/`, `poll.rs` |
//! | network | `net/` |
//! | counting | `counters.rs` |
//! | checkpoints | `checkpoint/`, and a saved form beside each area's records |
//! | the rest | `time.rs`, `cpu_time.rs`, `identity.rs`, `rights.rs` with whose rights the host is used, `limits.rs`, `budget.rs` host memory that is held for the program |
//!
//! # Threads and vCPUs
//! A guest thread is a record, [`thread::Thread`]: registers, extended state, and, if it is inside a system call that waits, what it waits
//! for. *Workers*, host threads with a vCPU each, run the threads that are ready. There are as many workers as threads have been ready at
//! once, up to a limit; beyond it threads take turns.
//!
//! A call never waits inside its handler. The handler returns [`Errno::BLOCKED`] after it has said what it waits for ([`Ctx::block`]);
//! the worker registers that, calls the handler once more so that no event is lost in between, and parks the thread. When something
//! happens the thread becomes ready, and *the call begins again from its start*. What must survive that is in the record: the deadline that the
//! first attempt fixed, and the bytes that a partial write has done. So at any time a thread is either about to enter ring 3 or at the start of
//! a call, and a checkpoint needs to wait for nothing: [`sched::Sched::pause`] stops the workers, takes the vCPUs' state into the records,
//! and all there is to save is plain data.
//!
//! A thread that waits leaves its state in the vCPU where it ran; if no other thread took that vCPU, waking it moves no registers.
//! After a restore no vCPU holds anything: workers are started for the threads that become ready, and a program of twenty sleeping threads
//! needs none for them.
//!
//! Where exits are dear, a first attempt at a call is also made by a thread that polls ([`exitless`]), while the vCPU waits in the guest. It has a record of its own
//! instead of the caller's, so calls that need that are marked in the table.
//!
//! # Locks
//! Taken in this order, never the other way: descriptor table; a file's own, and that of all Unix sockets; timers; scheduler (which covers futexes, signals and alarms); address
//! space; and the places of calls and the locks on files, with which none is taken. No lock is held over a host call that may wait. A file is never dropped under a lock: the end of a pipe tells its peer.
//!
//! # What a hostile program can do
//! Everything that it passes is checked here; it can fail its own calls, exhaust its own memory, descriptors and threads, and end itself.
//! Guest memory is read and written by bounds-checked volatile copies ([`Kernel::user_slices`]); what is allocated on its behalf is bounded.

// Of these, handlers are named after their system calls.
#[allow(missing_docs)]
pub mod attributes;
#[allow(missing_docs)]
pub mod copy;
#[allow(missing_docs)]
pub mod cpu_time;
#[allow(missing_docs)]
pub mod descriptor;
#[allow(missing_docs)]
pub mod directory;
#[allow(missing_docs)]
pub mod epoll;
#[allow(missing_docs)]
pub mod eventfd;
#[allow(missing_docs)]
pub mod futex;
#[allow(missing_docs)]
pub mod identity;
#[allow(missing_docs)]
pub mod io;
#[allow(missing_docs)]
pub mod ioctl;
#[allow(missing_docs)]
pub mod limits;
#[allow(missing_docs)]
pub mod lock;
#[allow(missing_docs)]
pub mod membarrier;
#[allow(missing_docs)]
pub mod memfd;
#[allow(missing_docs)]
pub mod mm;
#[allow(missing_docs)]
pub mod net;
#[allow(missing_docs)]
pub mod open;
#[allow(missing_docs)]
pub mod path_calls;
#[allow(missing_docs)]
pub mod pipe;
#[allow(missing_docs)]
pub mod poll;
#[allow(missing_docs)]
pub mod signal;
#[allow(missing_docs)]
pub mod stat;
#[allow(missing_docs)]
pub mod thread_calls;
#[allow(missing_docs)]
pub mod time;
#[allow(missing_docs)]
pub mod timer;
#[allow(missing_docs)]
pub mod timerfd;

mod budget;
mod call_sites;
mod checkpoint;
mod context;
pub mod counters;
mod direct;
mod errno;
mod exitless;
pub mod file;
mod guest;
mod host_fd;
mod host_file;
mod host_io;
mod kernel;
mod listing;
mod loader;
mod namespace;
mod proc;
mod reactor;
mod rights;
pub mod sched;
mod shared_files;
mod table;
mod text;
pub mod thread;
mod tmpfs;
mod trace;
mod user;
mod vdso;
mod worker;

pub use checkpoint::{Checkpoint, CheckpointError, RestoreError, State, Surroundings};
pub use context::{Args, Ctx, OnSignal};
pub use direct::Direct;
pub use errno::{Errno, SysResult};
pub use file::Inherited;
pub use guest::{Config, Guest, StartError};
pub use kernel::Kernel;
pub use loader::LoadError;
pub use namespace::{Mount, Source};
pub use net::{GuestStream, HostStream, STREAM_ROOM, stream};
pub use rights::Rights;
pub use sched::ExitStatus;
