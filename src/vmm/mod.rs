//! The machine: a KVM virtual machine that runs one program in guest ring 3.
//!
//! Nothing here knows Linux. A [`Vm`] is guest memory and a set of [`Vcpu`]s; a vCPU is entered with the
//! registers of a ring-3 program ([`UserRegs`]) and comes back with an [`Exit`]: the program executed
//! `syscall`, raised an exception, or was kicked. Ring 0 holds a page of assembly ([`ring0`]) that turns
//! system calls and exceptions into VM exits; it keeps no state, so the registers that [`Vcpu::enter`] returns are
//! always those of ring 3 and can be saved, changed, or loaded into another vCPU.
//!
//! | file | holds |
//! |---|---|
//! | `kvm.rs` | `/dev/kvm`: what it offers, and the probe of how a system call arrives and how a page is taken away |
//! | `vm.rs` | one virtual machine |
//! | `blank.rs` | virtual machines that were made ahead |
//! | `vcpu/` | one virtual CPU: entering, leaving, loading and saving a thread's state |
//! | `vcpu_thread.rs` | the host threads that vCPUs live on |
//! | `state.rs` | that state: general registers, segment bases, XSAVE area |
//! | `memory.rs` | guest RAM, and un-mapping a page for all vCPUs |
//! | `image.rs` | the content that the RAM of copies begins with |
//! | `difference.rs` | which pages of RAM differ from such a content |
//! | `frames` | which pages of guest RAM are in use |
//! | `paging.rs` | the guest's page tables |
//! | `large_pages.rs` | whether KVM sees when a large page in them is cut |
//! | `reset.rs` | putting RAM back to its image |
//! | `pagemap.rs` | which pages were written to; having KVM forget some |
//! | `working_set.rs` | the pages that a program touches when it goes on from an image |
//! | `heap.rs` | the host's own heap beside so many VMs |
//! | `layout.rs` | where things lie in guest-physical and guest-virtual memory |
//! | `ring0.rs` | descriptor tables and the ring-0 code |
//! | `exitless/` | system calls and page faults that are answered while the vCPU stays in the guest |
//! | `sparse.rs` | holes of files |
//! | `cpuid.rs` | what the guest is told of the CPU |
//! | `costs.rs` | what leaving the VM and a first touch of a page cost here |
//! | `features.rs` | what of the CPU a checkpoint needs |
//!
//! # Two sorts of KVM
//! On hardware KVM `syscall` enters ring 0 at the stub, which leaves the VM by an `out`. A KVM that emulates ring 0
//! in software (KVM on PVM) delivers `syscall` to the stub *in ring 3*. [`Sort`] says which it is, and only
//! `vcpu/` and `ring0.rs` look at it; where the stub is ring 3's, it can ask without leaving ([`CallSlot`]), and the program can come there without a `syscall` ([`CallSite`]). Un-mapping a page for all vCPUs is one act for both: [`GuestMemory::flush`].

mod blank;
mod costs;
mod cpuid;
mod difference;
mod error;
mod exitless;
mod features;
mod frames;
mod heap;
mod image;
mod kvm;
mod large_pages;
pub mod layout;
mod memory;
mod pagemap;
mod paging;
mod reset;
mod ring0;
mod sparse;
mod state;
mod vcpu;
mod vcpu_thread;
mod vm;
mod working_set;

pub use costs::Costs;
pub use cpuid::xsave_layout;
pub use error::VmmError;
pub use exitless::{Asked, AskedCall, AskedFault, CallSite, CallSlot, Reply};
pub use features::{Cpu, CpuMismatch};
pub use frames::{FRAME_SIZE, Frame, Frames, SavedFrames};
pub use heap::limit_heaps;
pub use image::{Image, Reference};
pub use kvm::{Hypervisor, Sort, host_counter, open_device, use_device};
pub use large_pages::can_cut_large_pages;
#[cfg(test)]
pub use large_pages::wait_for_large_pages;
pub use memory::GuestMemory;
pub use paging::{Access, Entry, LARGE_FRAMES, LARGE_PAGE, PageTables};
pub use reset::{ResetFigures, reset};
pub use sparse::next_data;
pub use state::{ExtendedState, StateHolder, UserRegs, Xsave, XsaveLayout};
pub use vcpu::{Exit, Kick, Vcpu};
pub use vm::Vm;
pub use working_set::WorkingSet;
