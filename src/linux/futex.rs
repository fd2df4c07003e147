//! Futexes. A waiter is an entry in a queue, keyed by the word's address; it survives a checkpoint as such.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::context::{Args, Ctx, OnSignal};
use super::errno::{Errno, SysResult};
use super::kernel::Kernel;
use super::thread::{Tid, Wait};
use super::time::Timespec;

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAKE_OP: u32 = 5;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
const PRIVATE: u32 = 128;
const CLOCK_REALTIME: u32 = 256;
/// Matches every waiter.
const ANY: u32 = u32::MAX;
/// In the word of a robust futex: its owner died; threads wait; the owner's number.
const OWNER_DIED: u32 = 0x4000_0000;
const WAITERS: u32 = 0x8000_0000;
const OWNER: u32 = 0x3fff_ffff;

/// All futexes that have waiters.
#[derive(Default)]
pub struct Futexes {
    queues: HashMap<u64, VecDeque<Waiter>>,
    /// Threads that were taken from a queue by a wake and have not seen it yet.
    woken: std::collections::HashSet<Tid>,
    /// Where each waiting thread is queued: a requeue moves it.
    places: HashMap<Tid, u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Waiter {
    tid: Tid,
    bits: u32,
}

/// What a checkpoint keeps of [`Futexes`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedFutexes {
    queues: Vec<(u64, Vec<Waiter>)>,
    woken: Vec<Tid>,
}

impl Futexes {
    /// What a checkpoint keeps.
    pub fn save(&self) -> SavedFutexes {
        let mut queues: Vec<_> =
            self.queues.iter().map(|(address, queue)| (*address, queue.iter().cloned().collect())).collect();
        queues.sort_unstable_by_key(|(address, _): &(u64, Vec<Waiter>)| *address);
        let mut woken: Vec<Tid> = self.woken.iter().copied().collect();
        woken.sort_unstable();
        SavedFutexes { queues, woken }
    }

    /// The queues as they were; `None` if a thread waits twice or does not exist.
    pub fn restore(saved: SavedFutexes, exists: impl Fn(Tid) -> bool) -> Option<Futexes> {
        let mut futexes = Futexes { woken: saved.woken.into_iter().collect(), ..Futexes::default() };
        for (address, waiters) in saved.queues {
            for waiter in waiters {
                if !exists(waiter.tid) || futexes.places.contains_key(&waiter.tid) {
                    return None;
                }
                futexes.enqueue(address, waiter.tid, waiter.bits);
            }
        }
        Some(futexes)
    }

    fn enqueue(&mut self, address: u64, tid: Tid, bits: u32) {
        self.queues.entry(address).or_default().push_back(Waiter { tid, bits });
        self.places.insert(tid, address);
    }

    /// Takes up to `count` waiters that share a bit with `bits`.
    fn take(&mut self, address: u64, count: usize, bits: u32) -> Vec<Tid> {
        let mut taken = Vec::new();
        let Some(queue) = self.queues.get_mut(&address) else { return taken };
        queue.retain(|waiter| {
            let take = taken.len() < count && waiter.bits & bits != 0;
            if take {
                taken.push(waiter.tid);
            }
            !take
        });
        if queue.is_empty() {
            self.queues.remove(&address);
        }
        for tid in &taken {
            self.places.remove(tid);
            self.woken.insert(*tid);
        }
        taken
    }

    /// Moves up to `count` waiters to another word.
    fn requeue(&mut self, from: u64, to: u64, count: usize) -> usize {
        let Some(mut queue) = self.queues.remove(&from) else { return 0 };
        let moved: Vec<Waiter> = queue.drain(..count.min(queue.len())).collect();
        if !queue.is_empty() {
            self.queues.insert(from, queue);
        }
        for waiter in &moved {
            self.places.insert(waiter.tid, to);
        }
        let n = moved.len();
        if n > 0 {
            self.queues.entry(to).or_default().extend(moved);
        }
        n
    }

    /// Nobody knows the thread any more.
    pub fn forget(&mut self, tid: Tid) {
        self.woken.remove(&tid);
        self.cancel(tid);
    }

    fn cancel(&mut self, tid: Tid) {
        if let Some(address) = self.places.remove(&tid)
            && let Some(queue) = self.queues.get_mut(&address)
        {
            queue.retain(|waiter| waiter.tid != tid);
            if queue.is_empty() {
                self.queues.remove(&address);
            }
        }
    }
}

/// `futex`.
pub fn futex(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (address, operation, value) = (args.u64(0), args.u32(1), args.u32(2));
    let realtime = operation & CLOCK_REALTIME != 0;
    if address % 4 != 0 {
        return Err(Errno::EINVAL);
    }
    match operation & !(PRIVATE | CLOCK_REALTIME) {
        WAIT => wait(ctx, address, value, ANY, args.u64(3), false, realtime),
        WAIT_BITSET => wait(ctx, address, value, args.u32(5), args.u64(3), true, realtime),
        WAKE => Ok(ctx.kernel.futex_wake(address, value as usize, ANY) as u64),
        WAKE_BITSET if args.u32(5) == 0 => Err(Errno::EINVAL),
        WAKE_BITSET => Ok(ctx.kernel.futex_wake(address, value as usize, args.u32(5)) as u64),
        REQUEUE => requeue(ctx, args, None),
        CMP_REQUEUE => requeue(ctx, args, Some(args.u32(5))),
        WAKE_OP => wake_op(ctx, args),
        _ => Err(Errno::ENOSYS),
    }
}

fn wait(
    ctx: &mut Ctx<'_>,
    address: u64,
    value: u32,
    bits: u32,
    timeout: u64,
    absolute: bool,
    realtime: bool,
) -> SysResult {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let tid = ctx.thread.tid;
    let kernel = ctx.kernel;
    if ctx.thread.progress == 0 {
        // An attempt that a signal ended has fixed it already.
        if timeout != 0 && ctx.thread.deadline.is_none() {
            let time = kernel.read::<Timespec>(timeout)?.nanos()?;
            ctx.thread.deadline = Some(match absolute {
                true if realtime => kernel.clock.monotonic_at_realtime(time),
                true => time,
                false => kernel.clock.monotonic().saturating_add(time),
            });
        }
        // The page is brought in before the lock is taken; under it the word and the queue are one.
        kernel.read::<u32>(address)?;
        let mut state = kernel.sched.lock();
        if kernel.read::<u32>(address)? != value {
            return Err(Errno::EAGAIN);
        }
        // Also its own earlier wait, if the program has left that by a way that no program takes.
        state.futexes.forget(tid);
        state.forget_wake(tid);
        state.futexes.enqueue(address, tid, bits);
        drop(state);
        ctx.thread.progress = 1;
    } else {
        let mut state = kernel.sched.lock();
        if state.futexes.woken.remove(&tid) {
            return Ok(0);
        }
        state.forget_wake(tid);
    }
    let give_up = if ctx.is_past(ctx.thread.deadline) {
        Errno::ETIMEDOUT
    } else {
        let wait = Wait { deadline: ctx.thread.deadline, files: Vec::new(), futex: true };
        match ctx.block(wait, if timeout == 0 { OnSignal::Restart } else { OnSignal::Interrupt }) {
            Errno::BLOCKED => return Err(Errno::BLOCKED),
            interrupted => interrupted,
        }
    };
    let mut state = kernel.sched.lock();
    if state.futexes.woken.remove(&tid) {
        return Ok(0);
    }
    state.futexes.cancel(tid);
    // If the call goes on after all, it queues again.
    ctx.thread.progress = 0;
    Err(give_up)
}

fn requeue(ctx: &mut Ctx<'_>, args: Args, expected: Option<u32>) -> SysResult {
    let (from, wake, most, to) = (args.u64(0), args.i32(2), args.u64(3) as i32, args.u64(4));
    if wake < 0 || most < 0 || to % 4 != 0 {
        return Err(Errno::EINVAL);
    }
    ctx.kernel.read::<u32>(from)?;
    let mut state = ctx.kernel.sched.lock();
    if let Some(expected) = expected
        && ctx.kernel.read::<u32>(from)? != expected
    {
        return Err(Errno::EAGAIN);
    }
    let woken = state.futexes.take(from, wake as usize, ANY);
    let total = woken.len() + state.futexes.requeue(from, to, most as usize);
    ctx.kernel.wake_locked(state, woken);
    Ok(total as u64)
}

/// Changes a second word and wakes waiters of both, the second's depending on its old value.
fn wake_op(ctx: &mut Ctx<'_>, args: Args) -> SysResult {
    let (first, count, count2, second, code) =
        (args.u64(0), args.u32(2), args.u64(3) as u32, args.u64(4), args.u32(5));
    let sign_extend = |bits: u32| ((bits << 20) as i32 >> 20) as u32;
    let (operation, compare) = (code >> 28 & 7, code >> 24 & 15);
    let mut operand = sign_extend(code >> 12 & 0xfff);
    if code >> 31 != 0 {
        operand = 1u32.checked_shl(operand & 31).unwrap_or(0);
    }
    let against = sign_extend(code & 0xfff) as i32;
    let old = ctx.kernel.update_word(second, |old| match operation {
        0 => Some(operand),
        1 => Some(old.wrapping_add(operand)),
        2 => Some(old | operand),
        3 => Some(old & !operand),
        4 => Some(old ^ operand),
        _ => None,
    })?;
    let old = old.ok_or(Errno::ENOSYS)? as i32;
    let also = match compare {
        0 => old == against,
        1 => old != against,
        2 => old < against,
        3 => old <= against,
        4 => old > against,
        5 => old >= against,
        _ => return Err(Errno::ENOSYS),
    };
    let mut woken = ctx.kernel.futex_wake(first, count as usize, ANY);
    if also {
        woken += ctx.kernel.futex_wake(second, count2 as usize, ANY);
    }
    Ok(woken as u64)
}

impl Kernel {
    /// Wakes up to `count` waiters of the word; returns how many.
    pub fn futex_wake(&self, address: u64, count: usize, bits: u32) -> usize {
        let mut state = self.sched.lock();
        let woken = state.futexes.take(address, count, bits);
        let n = woken.len();
        self.wake_locked(state, woken);
        n
    }

    /// Marks the robust futexes of a thread that ends as ownerless and wakes one waiter of each.
    pub(super) fn release_robust_list(&self, head: u64, tid: Tid) {
        /// Linux's bound on the length of the list.
        const MOST: usize = 2048;
        let Ok([first, offset, pending]) = self.read::<[u64; 3]>(head) else { return };
        let mut entry = first;
        for _ in 0..MOST {
            if entry & !1 == head {
                break;
            }
            let Ok(next) = self.read::<u64>(entry & !1) else { break };
            if entry != pending {
                self.release_robust((entry & !1).wrapping_add(offset), tid, false);
            }
            entry = next;
        }
        if pending & !1 != 0 {
            self.release_robust((pending & !1).wrapping_add(offset), tid, true);
        }
    }

    /// `pending`: the thread died between changing the word and the list, perhaps after it unlocked and before it woke.
    fn release_robust(&self, word: u64, tid: Tid, pending: bool) {
        if !word.is_multiple_of(4) {
            return;
        }
        let changed =
            self.update_word(word, |old| (old & OWNER == tid as u32).then_some(old & WAITERS | OWNER_DIED));
        let wake = match changed {
            Ok(Some(old)) => old & WAITERS != 0,
            Ok(None) => pending && self.read::<u32>(word) == Ok(0),
            Err(_) => false,
        };
        if wake {
            self.futex_wake(word, 1, ANY);
        }
    }
}
