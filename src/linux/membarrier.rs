//! `membarrier`: a memory barrier on every processor that runs a thread of the program.
//!
//! The vCPUs are threads of this process, so the host's own barrier is the one that is needed: it interrupts the processors that run
//! them, which makes those leave the guest, and returns when each has.

use std::sync::OnceLock;

use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier as host_barrier, membarrier_query};

use super::context::{Args, Ctx};
use super::errno::{Errno, SysResult};

const QUERY: i32 = 0;
const GLOBAL: i32 = 1;
const PRIVATE_EXPEDITED: i32 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

/// Whether the host has such barriers and this process has announced that it uses them.
fn is_offered() -> bool {
    static ANNOUNCED: OnceLock<bool> = OnceLock::new();
    *ANNOUNCED.get_or_init(|| {
        membarrier_query().contains(MembarrierQuery::PRIVATE_EXPEDITED)
            && host_barrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    })
}

pub fn membarrier(_: &mut Ctx<'_>, args: Args) -> SysResult {
    if !is_offered() {
        return Err(Errno::ENOSYS);
    }
    if args.u32(1) != 0 {
        return Err(Errno::EINVAL);
    }
    match args.i32(0) {
        QUERY => Ok((GLOBAL | PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED) as u64),
        REGISTER_PRIVATE_EXPEDITED => Ok(0),
        // No other process sees the program's memory, so the barrier of all processes is that of this one.
        GLOBAL | PRIVATE_EXPEDITED => {
            host_barrier(MembarrierCommand::PrivateExpedited)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}
