//! The host's heap, which shares its address space with the RAM of all VMs.

/// Has the C library keep one heap for each CPU rather than eight. All but the first grow and shrink page by page with `mprotect` and `madvise`
/// (glibc 2.36, `arena.c`), and every such change waits for the lock on the whole address space and is told to each VM of the process:
/// with hundreds of VMs, starts took twice as long by that alone. Must be called before there is a second thread.
pub fn limit_heaps() {
    #[cfg(target_env = "gnu")]
    {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        // SAFETY: changes a number of the C library, before others can look at it.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(cpus).unwrap_or(i32::MAX)) };
    }
}
