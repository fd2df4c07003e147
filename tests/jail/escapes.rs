//! What a function must not be able to do, tried by a real Python in a jail.

use crate::world::World;
use crate::world::exists;
use crate::world::has;
use crate::world::until;
use hydra::jail::Layer;
use hydra::jail::Network;
use std::path::Path;

#[tokio::test]
async fn sees_only_its_own_root_and_code() {
    if !has(&[Layer::Mount, Layer::Pid, Layer::Proc]) {
        return;
    }
    let world = World::new();
    let mut agent = world.start(&world.jail()).await;
    assert_eq!(agent.run("print(os.listdir('/function'))"), "[]");
    let assigned = agent.assign(&world, "one").await.expect("assigned");
    assert_eq!(assigned.code, Path::new("/function"));
    assert_eq!(
        agent.run("print(open('/function/main.py').read(), os.listdir('/function'))"),
        "ONE ['main.py']"
    );
    assert!(agent.assign(&world, "two").await.is_err(), "a second function was shown");
    assert_eq!(agent.run("print(open('/function/main.py').read())"), "ONE");

    let secret = world.path("secret");
    let denied = ["FileNotFoundError 2", "PermissionError 13", "PermissionError 1", "OSError 30"];
    for program in [
        format!("open({secret:?})"),
        format!("os.listdir({:?})", world.path("store")),
        format!("open('/proc/1/root{}')", secret.display()),
        format!("open('/proc/self/root{}')", secret.display()),
        "open('/etc/shadow')".into(),
        "os.listdir('/root')".into(),
        "os.listdir('/sys')".into(),
        "os.listdir('/proc/1/root')".into(),
        "os.listdir('/proc/1/fd')".into(),
        "open('/proc/1/mem')".into(),
        "open('/proc/1/environ')".into(),
        "open('/function/main.py', 'a')".into(),
        "open('/function/new', 'w')".into(),
        "open('/new', 'w')".into(),
        "open('/usr/new', 'w')".into(),
        "open('/etc/passwd', 'a')".into(),
        "os.chmod('/usr/bin/env', 0o777)".into(),
        "open('/proc/sys/kernel/core_pattern', 'w')".into(),
        "open('/proc/sys/kernel/hostname', 'w')".into(),
        "open('/proc/sysrq-trigger', 'w')".into(),
        "open('/proc/self/oom_score_adj', 'w')".into(),
        "open('/dev/kvm')".into(),
        "os.mknod('/tmp/disk', 0o60600, os.makedev(254, 0))".into(),
        "os.chroot('/tmp')".into(),
    ] {
        let answer = agent.run(&program);
        assert!(denied.contains(&answer.as_str()), "{program}: {answer}");
    }
    assert_eq!(agent.run("print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))"), "[1, 2]");
    assert_eq!(
        agent.run("print(socket.gethostname(), os.getuid(), os.getgroups())").split(' ').next(),
        Some("function")
    );
    assert_eq!(
        agent.run("open('/dev/null', 'w').write('x'); print(len(open('/dev/urandom', 'rb').read(9)))"),
        "9"
    );
}

#[tokio::test]
async fn cannot_make_dangerous_calls() {
    if !has(&[Layer::Seccomp]) {
        return;
    }
    let world = World::new();
    let mut agent = world.start(&world.jail()).await;
    for (program, expected) in [
        ("call(165, b'none', b'/tmp', b'tmpfs', 0, 0)", "EPERM"), // mount
        ("call(272, 0x10000000)", "EPERM"),                       // unshare(CLONE_NEWUSER)
        ("call(56, 0x10000000 | 17, 0, 0, 0, 0)", "EPERM"),       // clone(CLONE_NEWUSER)
        ("call(435, 0, 0)", "ENOSYS"),                            // clone3
        ("call(425, 1, 0)", "ENOSYS"),                            // io_uring_setup
        ("call(470)", "ENOSYS"),                                  // newer than the table
        ("call(308, 0, 0)", "EPERM"),                             // setns
        ("call(101, 16, os.getppid(), 0, 0)", "EPERM"),           // ptrace(PTRACE_ATTACH)
        ("call(310, os.getppid(), 0, 0, 0, 0, 0)", "EPERM"),      // process_vm_readv
        ("call(250, 0, 0, 0, 0, 0)", "EPERM"),                    // keyctl
        ("call(321, 0, 0, 0)", "EPERM"),                          // bpf
        ("call(298, 0, 0, 0, 0, 0)", "EPERM"),                    // perf_event_open
        ("call(323, 0)", "EPERM"),                                // userfaultfd
        ("call(175, 0, 0, 0)", "EPERM"),                          // init_module
        ("call(246, 0, 0, 0, 0)", "EPERM"),                       // kexec_load
        ("call(304, 0, 0, 0)", "EPERM"),                          // open_by_handle_at
        ("call(105, 0)", "EPERM"),                                // setuid
        ("call(16, 0, 0x5412, 0)", "EPERM"),                      // ioctl(TIOCSTI)
        ("call(0x40000000 | 39)", "EPERM"),                       // getpid of the x32 ABI
        ("call(157, 36, 1, 0, 0, 0)", "0"),                       // prctl(PR_SET_CHILD_SUBREAPER)
        ("call(157, 28, 0, 0, 0, 0)", "EPERM"),                   // prctl(PR_SET_SECUREBITS)
    ] {
        assert_eq!(agent.run(&format!("print({program})")), expected, "{program}");
    }
    for family in ["AF_PACKET", "AF_VSOCK", "AF_ALG", "AF_BLUETOOTH", "AF_CAN"] {
        let program = format!("socket.socket(getattr(socket, '{family}', 31), socket.SOCK_RAW)");
        assert_eq!(agent.run(&program), "PermissionError 1", "{family}");
    }
    assert_eq!(agent.run("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)"), "PermissionError 1"); // NETLINK_AUDIT
    assert_eq!(agent.run("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"), "PermissionError 1");
}

#[tokio::test]
async fn has_no_privileges_and_bounded_resources() {
    if !has(&[Layer::Privileges, Layer::Mount, Layer::Pid, Layer::Proc]) {
        return;
    }
    let world = World::new();
    let mut jail = world.jail();
    jail.processes = 40;
    let mut agent = world.start(&jail).await;
    let status = agent.run("print(open('/proc/self/status').read())");
    for line in [
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} is not in {status}");
    }
    if has(&[Layer::Identity]) {
        let host =
            std::fs::read_to_string(format!("/proc/{}/status", agent.jailed.pid())).expect("its status");
        let uid = host.lines().find(|line| line.starts_with("Uid:")).expect("a user");
        assert!(!uid.contains("\t0"), "root on the host: {uid}");
    }
    let raise = "resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 16, 1 << 16))";
    assert!(agent.run(raise).starts_with("ValueError"), "a hard limit was raised");
    let fill = "f = open('/tmp/big', 'wb')\nfor _ in range(20): f.write(bytes(1 << 20)); f.flush()";
    assert_eq!(agent.run(fill), "OSError 28");
    assert!(agent.jailed.memory().expect("measured") >= 8 << 20, "/tmp does not count as memory");
    agent.run("del f; os.remove('/tmp/big')");
    if has(&[Layer::Processes]) {
        let bomb = "n = 0\ntry:\n  while n < 500:\n    if os.fork() == 0: signal.pause(); os._exit(0)\n    n += 1\n\
                    except OSError as e: print(n, e.errno)";
        let answer = agent.run(bomb);
        let (count, errno) = answer.split_once(' ').expect("the bomb was stopped");
        assert!(count.parse::<u32>().is_ok_and(|count| count < 40) && errno == "11", "{answer}");
    }
    let init = agent.jailed.pid();
    drop(agent);
    until("the end of the bomb", || !exists(init)).await;
}

#[tokio::test]
async fn cannot_reach_other_processes() {
    if !has(&[Layer::Pid]) {
        return;
    }
    let world = World::new();
    let mut agent = world.start(&world.jail()).await;
    let hydra = std::process::id();
    assert!(
        ["ProcessLookupError 3", "PermissionError 1"]
            .contains(&agent.run(&format!("os.kill({hydra}, 9)")).as_str())
    );
    // PID 1 is immune to its own namespace, and Landlock says so too.
    agent.run("os.kill(1, 9)");
    assert_eq!(agent.run("print('alive')"), "alive");
}

#[tokio::test]
async fn has_only_loopback() {
    if !has(&[Layer::Network]) {
        return;
    }
    let world = World::new();
    let mut agent = world.start(&world.jail()).await;
    assert_eq!(agent.run("print(socket.if_nameindex())"), "[(1, 'lo')]");
    let listen = "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print('joined')";
    assert_eq!(agent.run(listen), "joined");
    assert_eq!(agent.run("socket.create_connection(('192.0.2.1', 9), 1)"), "OSError 101");
    let mut jail = world.jail();
    jail.network = Network::Host;
    let mut agent = world.start(&jail).await;
    let own = std::fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert_eq!(agent.run("print(os.readlink('/proc/self/ns/net'))"), own.to_string_lossy());
}
