//! Whether KVM sees when a large page of the guest's page tables is cut into small ones.
//!
//! Where KVM keeps shadow tables and the host has small pages only, it shadows a large page by a table of its own, whose entries follow from the large page
//! alone. A KVM without the fix "unexpected GFN" of `kvm_mmu_get_child_sp` (Linux of May 2026) goes on with that table when the
//! entry above was changed from outside of the guest, as Hydra does: a page then gets the rights and the frames that its neighbours had, and KVM loses
//! account of them. There must be no large pages there. With nested paging KVM does not look at the guest's tables.

use std::sync::OnceLock;
use std::thread;

use super::error::VmmError;
use super::frames::{FRAME_SIZE, Frames};
use super::kvm::Hypervisor;
use super::layout::FIRST_FRAME;
use super::memory::GuestMemory;
use super::paging::{Access, Entry, LARGE_PAGE, PageTables};
use super::state::{ExtendedState, UserRegs};
use super::vcpu::{Exit, Vcpu};
use super::vm::Vm;

static FOUND: OnceLock<bool> = OnceLock::new();

/// Whether large pages may be given out. Until that is known they may not: the first who asks has it found out on another thread.
pub fn can_cut_large_pages() -> bool {
    static BEGUN: OnceLock<()> = OnceLock::new();
    let found = FOUND.get().copied();
    if found.is_none() {
        BEGUN.get_or_init(|| {
            // Without the thread there are none.
            let _ = thread::Builder::new().name("kvm-large-pages".into()).spawn(find_out);
        });
    }
    found.unwrap_or(false)
}

/// The same, of a test, which waits for it, and says so if it is to be skipped.
#[cfg(test)]
pub fn wait_for_large_pages() -> bool {
    let found = find_out();
    if !found {
        eprintln!("skipped: no KVM here that sees when a large page is cut");
    }
    found
}

fn find_out() -> bool {
    *FOUND.get_or_init(|| probe().unwrap_or(false))
}

/// Where the code lies, and the large page.
const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x80_0000;
/// `mov [rdi], al; syscall`.
const STORE: [u8; 4] = [0x88, 0x07, 0x0f, 0x05];
/// Two pages that KVM brings in together.
const TAKEN: u64 = DATA + 5 * FRAME_SIZE;
const KEPT: u64 = DATA + 6 * FRAME_SIZE;

/// Has a vCPU use two small parts of a large page, takes one away, and sees whether the use of the other brings it back. The frames stay the same, so that
/// a KVM that is wrong about it loses nothing.
fn probe() -> Result<bool, VmmError> {
    let hypervisor = Hypervisor::get()?;
    let bytes = FIRST_FRAME + 2 * LARGE_PAGE;
    let memory = GuestMemory::reserve(bytes)?.allow_large_pages();
    if !memory.allows_large_pages() {
        return Ok(false);
    }
    memory.keep_pages_small();
    let vm = Vm::new(memory)?;
    let memory = vm.memory();
    let (tables, mut frames) = (PageTables::new(memory), Frames::new(bytes));
    let none = VmmError::Lacks("room for a large page");
    let Some(((code, _), data)) = frames.allocate(1).zip(frames.allocate_large()) else { return Err(none) };
    memory.write(code.address(), &STORE);
    for page in 0..8 {
        // Only what the host has can KVM bring in.
        memory.write(data.address() + page * FRAME_SIZE, &[1]);
    }
    let (code, data) = (
        Entry { frame: code, access: Access::READ | Access::EXECUTE },
        Entry { frame: data, access: Access::READ | Access::WRITE },
    );
    if !tables.set(CODE, code, &mut frames) || !tables.set_large(DATA, data, &mut frames) {
        return Err(none);
    }
    let mut vcpu = vm.create_vcpu()?;
    vcpu.load(&ExtendedState::initial(hypervisor.xsave()))?;
    let begun = store(&mut vcpu, TAKEN)? == Exit::Syscall && store(&mut vcpu, KEPT)? == Exit::Syscall;
    tables.update(TAKEN, KEPT, |_, _| None);
    memory.flush(data.frame.address() + TAKEN - DATA, 2 * FRAME_SIZE as usize)?;
    let is_kept = store(&mut vcpu, KEPT)? == Exit::Syscall;
    let is_taken = matches!(store(&mut vcpu, TAKEN)?, Exit::Exception { vector: 14, .. });
    Ok(begun && is_kept && is_taken)
}

fn store(vcpu: &mut Vcpu, address: u64) -> Result<Exit, VmmError> {
    vcpu.enter(&mut UserRegs { rip: CODE, rdi: address, ..UserRegs::default() })
}
