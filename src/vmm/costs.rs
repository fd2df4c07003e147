//! What a program in a microVM pays for on this host: measured when somebody asks.

use std::time::{Duration, Instant};

use super::error::VmmError;
use super::frames::{FRAME_SIZE, Frames};
use super::kvm::Hypervisor;
use super::memory::GuestMemory;
use super::paging::{Access, Entry, PageTables};
use super::state::{ExtendedState, UserRegs};
use super::vcpu::{Exit, Vcpu};
use super::vm::Vm;

/// What the host takes for what a program cannot do by itself. Each is a mean, as short as the shortest of some series.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A system call that leaves the VM, without what it is to do.
    pub system_call: Duration,
    /// The first touch of a page that the program has, but which neither KVM nor the host has seen.
    pub page: Duration,
}

/// System calls of a series.
const CALLS: u32 = 200;
/// Pages of a series.
const PAGES: u32 = 512;
const SERIES: u32 = 5;
/// Where the code lies, and the pages.
const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x80_0000;
/// `syscall`, then: store a byte to each of `rcx` pages from `rdi` on, as `again: mov [rdi], al; add rdi, 4096; dec rcx; jnz again; syscall`.
const INSTRUCTIONS: [u8; 18] =
    [0x0f, 0x05, 0x88, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xf2, 0x0f, 0x05];
const TOUCH: u64 = CODE + 2;

impl Costs {
    /// Measures them on a VM of its own, in some tens of milliseconds.
    ///
    /// # Errors
    /// The host has no KVM that Hydra can use.
    pub fn measure() -> Result<Costs, VmmError> {
        let hypervisor = Hypervisor::get()?;
        let vm = Vm::new(GuestMemory::reserve(32 << 20)?)?;
        // Large ones would be there after the first touch.
        vm.memory().keep_pages_small();
        map(&vm)?;
        let mut vcpu = vm.create_vcpu()?;
        vcpu.load(&ExtendedState::initial(hypervisor.xsave()))?;
        let system_call = shortest(|_| {
            (0..CALLS).try_for_each(|_| run(&mut vcpu, UserRegs { rip: CODE, ..UserRegs::default() }))
        })?;
        let page = shortest(|series| {
            let rdi = DATA + u64::from(series * PAGES) * FRAME_SIZE;
            run(&mut vcpu, UserRegs { rip: TOUCH, rdi, rcx: PAGES.into(), ..UserRegs::default() })
        })?;
        Ok(Costs { system_call: system_call / CALLS, page: page / PAGES })
    }
}

/// Maps the code, and the pages to touch.
fn map(vm: &Vm) -> Result<(), VmmError> {
    let mut frames = Frames::new(vm.memory().size());
    let mut map = |address, access| {
        let frame = frames.allocate(1).map(|(frame, _)| frame);
        let mut is_set =
            |frame| PageTables::new(vm.memory()).set(address, Entry { frame, access }, &mut frames);
        frame.filter(|frame| is_set(*frame)).ok_or(VmmError::Lacks("room for a few pages"))
    };
    let code = map(CODE, Access::READ | Access::EXECUTE)?;
    for page in 0..u64::from(SERIES * PAGES) {
        map(DATA + page * FRAME_SIZE, Access::READ | Access::WRITE)?;
    }
    vm.memory().write(code.address(), &INSTRUCTIONS);
    Ok(())
}

fn run(vcpu: &mut Vcpu, mut regs: UserRegs) -> Result<(), VmmError> {
    match vcpu.enter(&mut regs)? {
        Exit::Syscall => Ok(()),
        exit => Err(VmmError::Stopped(format!("a program that is measured came back as {exit:?}"))),
    }
}

/// How long the shortest series takes; others were disturbed.
fn shortest(mut series: impl FnMut(u32) -> Result<(), VmmError>) -> Result<Duration, VmmError> {
    let mut time = |number| {
        let start = Instant::now();
        series(number).map(|()| start.elapsed())
    };
    let first = time(0)?;
    (1..SERIES).try_fold(first, |shortest, number| Ok(shortest.min(time(number)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_call_and_a_page_cost_something() {
        match Costs::measure() {
            Ok(costs) => assert!(!costs.system_call.is_zero() && !costs.page.is_zero(), "{costs:?}"),
            Err(error) => {
                assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{error}");
                eprintln!("skipped: {error}");
            }
        }
    }
}
