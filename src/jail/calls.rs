//! The system calls that a jailed process may make: the data of its seccomp filter, one group a line, each
//! with its reason. Whatever is not named fails with `EPERM`; what [`UNKNOWN`] names fails with `ENOSYS`, so
//! that the C library falls back to an older call.

use libc::*;

/// Calls that are allowed with any arguments, and why.
#[rustfmt::skip]
pub const ALLOWED: &[(&[c_long], &str)] = &[
    (&[SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_pwritev2], "read and write open files"),
    (&[SYS_openat, SYS_openat2, SYS_close, SYS_close_range, SYS_lseek, SYS_dup, SYS_dup3, SYS_fcntl, SYS_flock], "open files: what may be opened is up to the root and to Landlock"),
    (&[SYS_fstat, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_fstatfs, SYS_faccessat, SYS_faccessat2, SYS_readlinkat, SYS_getdents64, SYS_getcwd], "look at files and directories"),
    (&[SYS_chdir, SYS_fchdir, SYS_umask, SYS_mkdirat, SYS_unlinkat, SYS_renameat, SYS_renameat2, SYS_linkat, SYS_symlinkat], "change the tree below /tmp"),
    (&[SYS_ftruncate, SYS_truncate, SYS_fallocate, SYS_fsync, SYS_fdatasync, SYS_sync_file_range, SYS_fadvise64, SYS_readahead], "the size of files, and writing them out"),
    (&[SYS_fchmod, SYS_fchmodat, SYS_fchmodat2, SYS_fchown, SYS_fchownat, SYS_utimensat, SYS_mknodat], "modes, owners, times and FIFOs of own files; device nodes need a capability"),
    (&[SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr], "read extended attributes: shutil.copystat, java.nio.file"),
    (&[SYS_copy_file_range, SYS_sendfile, SYS_splice, SYS_tee], "copies inside the kernel: shutil, fs.copyFile, FileChannel.transferTo"),
    (&[SYS_pipe2, SYS_eventfd2, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_ppoll, SYS_pselect6], "event loops"),
    (&[SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime, SYS_signalfd4, SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch], "timers, signals and file changes as descriptors"),
    (&[SYS_memfd_create, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_msync, SYS_mincore, SYS_brk], "memory"),
    (&[SYS_mlock, SYS_mlock2, SYS_munlock, SYS_mlockall, SYS_munlockall, SYS_get_mempolicy], "lock memory within RLIMIT_MEMLOCK; OpenBLAS asks for the policy"),
    (&[SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect], "V8 protects its JIT pages with memory keys"),
    (&[SYS_futex, SYS_futex_waitv, SYS_set_robust_list, SYS_get_robust_list, SYS_rseq, SYS_membarrier, SYS_set_tid_address], "threads"),
    (&[SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid], "subprocesses; a set-user-ID program gains nothing"),
    (&[SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_pidfd_open, SYS_pidfd_send_signal], "signals, within the PID namespace"),
    (&[SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigpending, SYS_rt_sigsuspend, SYS_rt_sigtimedwait, SYS_rt_sigreturn, SYS_sigaltstack, SYS_restart_syscall], "signal handling"),
    (&[SYS_getpid, SYS_getppid, SYS_gettid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid], "who am I: processes and sessions"),
    (&[SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid, SYS_getresgid, SYS_getgroups, SYS_capget], "who am I: users, groups and capabilities"),
    (&[SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep, SYS_gettimeofday, SYS_times], "read clocks and sleep"),
    (&[SYS_getitimer, SYS_setitimer, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime, SYS_timer_getoverrun, SYS_timer_delete], "timers"),
    (&[SYS_getrlimit, SYS_setrlimit, SYS_prlimit64, SYS_getrusage, SYS_sysinfo, SYS_uname, SYS_getcpu], "limits (a hard limit cannot be raised), usage and the machine"),
    (&[SYS_sched_yield, SYS_sched_getaffinity, SYS_sched_setaffinity, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_setscheduler, SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_rr_get_interval, SYS_sched_getattr, SYS_getpriority, SYS_setpriority], "scheduling; real-time and nice are bounded by rlimits"),
    (&[SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_shutdown, SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt], "sockets of the families in FAMILIES"),
    (&[SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_recvfrom, SYS_recvmsg, SYS_recvmmsg], "traffic on those sockets"),
    (&[SYS_getrandom], "random numbers"),
];

/// Calls that exist on x86-64 only: older forms of calls above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub const ALLOWED_OLD: &[(&[c_long], &str)] = &[
    (&[SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_getdents, SYS_dup2], "older forms: files"),
    (&[SYS_mkdir, SYS_rmdir, SYS_unlink, SYS_rename, SYS_link, SYS_symlink, SYS_chmod, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat, SYS_mknod], "older forms: changes below /tmp"),
    (&[SYS_pipe, SYS_eventfd, SYS_epoll_create, SYS_epoll_wait, SYS_poll, SYS_select, SYS_signalfd, SYS_inotify_init], "older forms: event loops"),
    (&[SYS_fork, SYS_vfork, SYS_getpgrp, SYS_time, SYS_alarm, SYS_pause, SYS_arch_prctl], "older forms: processes and time; thread-local storage"),
];
/// Calls that exist on x86-64 only: there are none elsewhere.
#[cfg(not(target_arch = "x86_64"))]
pub const ALLOWED_OLD: &[(&[c_long], &str)] = &[];

/// Socket families that `socket` may make, and why.
pub const FAMILIES: &[(c_int, &str)] = &[
    (AF_UNIX, "pipes of subprocesses, node's IPC"),
    (AF_INET, "the network, where the policy gives one"),
    (AF_INET6, "the network, where the policy gives one"),
];

/// Flags of `clone` that make a namespace: any of them is refused.
pub const NAMESPACES: c_int = CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
    | 0x80; // CLONE_NEWTIME, Linux 5.6, include/uapi/linux/sched.h

/// Requests of `ioctl` that are refused, and why. All others act on descriptors that the process could open.
pub const REFUSED_IOCTLS: &[(u64, &str)] = &[
    (TIOCSTI, "types into a terminal, as if its user had"),
    (0x541C, "TIOCLINUX: pastes into a console"),
    (0xAA3F, "UFFDIO_API: userfaultfd through /dev/userfaultfd"),
];

/// Options of `prctl` that are allowed, and why.
pub const PRCTL: &[(c_int, &str)] = &[
    (PR_SET_NAME, "thread names"),
    (PR_GET_NAME, "thread names"),
    (0x53564d41, "PR_SET_VMA: V8 and glibc name their mappings"),
    (PR_SET_PDEATHSIG, "subprocesses that end with their parent"),
    (PR_GET_PDEATHSIG, "subprocesses that end with their parent"),
    (PR_GET_DUMPABLE, "asked by runtimes before they dump"),
    (PR_SET_DUMPABLE, "a process may hide its own memory"),
    (PR_SET_NO_NEW_PRIVS, "is set already; setting it again is harmless"),
    (PR_GET_NO_NEW_PRIVS, "asked by sandboxes inside the sandbox"),
    (PR_CAPBSET_READ, "asked by libcap and by runtimes that report capabilities"),
    (PR_SET_THP_DISABLE, "huge pages: an option of the JVM"),
    (PR_GET_THP_DISABLE, "huge pages: an option of the JVM"),
    (PR_SET_TIMERSLACK, "a process may wake later"),
    (PR_GET_TIMERSLACK, "a process may wake later"),
    (PR_SET_CHILD_SUBREAPER, "process supervisors reap their own orphans"),
];

/// Values of `personality` that are allowed: asking, and the ordinary one.
pub const PERSONALITIES: &[(u64, &str)] = &[(0xffff_ffff, "asks"), (0, "PER_LINUX")];

/// Calls that fail with `ENOSYS`, and why.
#[rustfmt::skip]
pub const UNKNOWN: &[(&[c_long], &str)] = &[
    (&[SYS_clone3], "its flags lie in memory, out of a filter's sight; the C library falls back to clone"),
    (&[SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register], "does its work out of a filter's sight; libuv falls back to threads"),
    (&[463, 464, 465, 466, 467, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477, 478, 479, 480], "newer than this table (Linux 6.10 ended at 462); the C library falls back"),
];
