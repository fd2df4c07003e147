//! Escapes from a jail, tried by a real Python in it. A layer that this host does not give is skipped, and says so.

use hydra::jail::{Jail, Jailed, Layer, Limits, Network, probe, use_init_program};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Reads programs from the channel, a length and then the text; answers with what they print, and a zero byte.
const AGENT: &str = r#"
import contextlib, io, socket, sys, traceback
channel = socket.socket(fileno=int(sys.argv[1]))
stream = channel.makefile("rwb")
stream.write(b"HELLO\n"); stream.flush()
names = {"channel": channel}
while line := stream.readline():
    program, out = stream.read(int(line)).decode(), io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(program, names)
        except BaseException as e:
            print(f"{type(e).__name__} {getattr(e, 'errno', '')}")
            if not isinstance(e, OSError): traceback.print_exc(file=out)
    stream.write(out.getvalue().encode() + b"\0"); stream.flush()
"#;

const PRELUDE: &str = r#"
import ctypes, os, sys, errno, socket, subprocess, resource, signal, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    r = libc.syscall(number, *arguments)
    return r if r >= 0 else errno.errorcode[ctypes.get_errno()]
"#;

struct World {
    dir: TempDir,
}

struct Agent {
    jailed: Jailed,
    channel: BufReader<UnixStream>,
}

impl World {
    fn new() -> World {
        use_init_program(Path::new(env!("CARGO_BIN_EXE_hydra")));
        let dir = tempfile::tempdir().expect("a directory");
        let world = World { dir };
        for (name, content) in
            [("store/one/main.py", "ONE"), ("store/two/main.py", "TWO"), ("agent/agent.py", AGENT)]
        {
            let path = world.path(name);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("made");
            std::fs::write(path, content).expect("written");
        }
        std::fs::write(world.path("secret"), "SECRET").expect("written");
        for name in ["", "store", "store/one", "store/two", "agent"] {
            std::fs::set_permissions(world.path(name), PermissionsExt::from_mode(0o755))
                .expect("opened to others");
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("exists").join(name)
    }

    fn jail(&self) -> Jail {
        let mut jail = Jail::new("/usr/bin/python3", self.path("store"));
        jail.arguments = vec!["-u".into(), self.path("agent/agent.py").into(), "{fd}".into()];
        jail.readable = vec![self.path("agent")];
        jail.tmp_mib = 8;
        jail
    }

    async fn start(&self, jail: &Jail) -> Agent {
        let mut jailed = jail.spawn(self.dir.path()).await.expect("the jail starts");
        let channel = jailed.take_channel();
        channel.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut agent = Agent { jailed, channel: BufReader::new(channel) };
        let mut hello = String::new();
        let heard = agent.channel.read_line(&mut hello);
        assert!(hello == "HELLO\n", "no greeting ({heard:?}): {}", agent.errors());
        agent.run(PRELUDE);
        agent
    }
}

impl Agent {
    fn run(&mut self, program: &str) -> String {
        let stream = self.channel.get_mut();
        stream.write_all(format!("{}\n{program}", program.len()).as_bytes()).expect("sent");
        let mut answer = Vec::new();
        self.channel.read_until(0, &mut answer).expect("answered");
        assert_eq!(answer.pop(), Some(0), "the agent ended: {}", self.errors());
        String::from_utf8(answer).expect("text").trim_end().to_owned()
    }

    async fn assign(
        &mut self,
        world: &World,
        name: &str,
    ) -> Result<hydra::jail::Assigned, hydra::jail::JailError> {
        self.jailed.assign(&world.path("store").join(name), &Limits { memory_mib: 64 }).await
    }

    fn errors(&mut self) -> String {
        self.jailed.kill();
        let mut text = String::new();
        let read = std::fs::File::from(self.jailed.take_output().1).read_to_string(&mut text);
        format!("{text} ({read:?})")
    }
}

/// Whether the host gives all `layers`; says so if not.
fn has(layers: &[Layer]) -> bool {
    use_init_program(Path::new(env!("CARGO_BIN_EXE_hydra")));
    layers.iter().all(|layer| match probe().missing(*layer) {
        None => true,
        Some(reason) => {
            eprintln!("SKIPPED: no {layer:?} here: {reason}");
            false
        }
    })
}

fn exists(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

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

#[tokio::test]
async fn runs_threads_and_subprocesses_and_reaps_orphans() {
    let world = World::new();
    let mut agent = world.start(&world.jail()).await;
    let threads = "t = [threading.Thread(target=lambda: None) for _ in range(8)]; [x.start() for x in t]; [x.join() for x in t]; print(8)";
    assert_eq!(agent.run(threads), "8");
    let subprocess = "print(subprocess.run(['/bin/sh', '-c', 'echo hi; exit 3'], capture_output=True))";
    assert!(agent.run(subprocess).contains("returncode=3, stdout=b'hi\\n'"));
    if has(&[Layer::Pid, Layer::Proc]) {
        // The orphan becomes a child of the init, which must reap it.
        agent.run("subprocess.run('sleep 0.01 & exit 0', shell=True)");
        let count = "print(sum(p.isdigit() for p in os.listdir('/proc')))";
        until("the end of the orphan", || agent.run(count) == "2").await;
    }
}

#[tokio::test]
async fn nothing_outlives_it() {
    let world = World::new();
    let mut without_pid = world.jail();
    without_pid.without = vec![Layer::Pid];
    for jail in [world.jail(), without_pid] {
        let mut agent = world.start(&jail).await;
        // A daemon: twice forked, in a session of its own.
        agent.run("if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: signal.pause()\n  os._exit(0)");
        let init = agent.jailed.pid();
        let below =
            || std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap_or_default();
        until("the daemon", || below().split_whitespace().count() == 2).await;
        let processes: Vec<u32> =
            below().split_whitespace().map(|pid| pid.parse().expect("a number")).collect();
        drop(agent);
        until("the end of all processes", || processes.iter().chain([&init]).all(|pid| !exists(*pid))).await;
    }
}

#[tokio::test]
async fn the_agents_status_is_told() {
    let world = World::new();
    let mut agent = world.start(&world.jail()).await;
    let stream = agent.channel.get_mut();
    stream.write_all(b"11\nos._exit(7)").expect("sent");
    assert_eq!(agent.jailed.wait().await.expect("ended").code(), Some(7));
    let mut agent = world.start(&world.jail()).await;
    agent.jailed.kill();
    assert!(!agent.jailed.wait().await.expect("ended").success());
}

#[tokio::test]
async fn many_jails_leave_no_descriptors() {
    let world = World::new();
    drop(world.start(&world.jail()).await);
    // Other tests of this process open descriptors too: only those of this thread's jails may be compared, so they
    // are counted in a process of their own.
    if std::env::var_os("ALONE").is_none() {
        let own = std::env::current_exe().expect("a path");
        let status = std::process::Command::new(own)
            .args(["--exact", "many_jails_leave_no_descriptors"])
            .env("ALONE", "1")
            .status();
        assert!(status.expect("it runs").success());
        return;
    }
    let count = || std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
    let settled = count();
    for _ in 0..100 {
        let jailed = world.jail().spawn(world.dir.path()).await.expect("the jail starts");
        drop(jailed);
    }
    until("the end of all descriptors", || count() <= settled).await;
    let mine = std::process::id();
    let children = || std::fs::read_to_string(format!("/proc/self/task/{mine}/children")).unwrap_or_default();
    until("the end of all children", || children().trim().is_empty()).await;
}

#[tokio::test]
async fn nothing_outlives_hydra() {
    // A second process of this test plays Hydra, and is killed.
    let world = World::new();
    if std::env::var_os("VICTIM").is_some() {
        let agent = world.start(&world.jail()).await;
        println!("\ninit {}", agent.jailed.pid());
        std::future::pending::<()>().await;
    }
    let own = std::env::current_exe().expect("a path");
    let mut victim = std::process::Command::new(own)
        .args(["--exact", "nothing_outlives_hydra", "--nocapture"])
        .env("VICTIM", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let lines = BufReader::new(victim.stdout.take().expect("piped")).lines();
    let init = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("init ")?.parse::<u32>().ok());
    let init = init.expect("the victim has a jail");
    assert!(exists(init));
    victim.kill().expect("killed");
    victim.wait().expect("reaped");
    until("the end of the jail", || !exists(init)).await;
}

#[tokio::test]
async fn works_without_namespaces() {
    let world = World::new();
    let mut jail = world.jail();
    jail.network = Network::Host;
    jail.without = vec![Layer::User, Layer::Mount, Layer::Pid, Layer::Proc, Layer::Ipc, Layer::Hostname];
    let mut agent = world.start(&jail).await;
    let assigned = agent.assign(&world, "one").await.expect("assigned");
    assert_eq!(assigned.code, world.path("store/one"));
    assert_eq!(agent.run(&format!("print(open({:?}).read())", assigned.code.join("main.py"))), "ONE");
    agent.run(&format!("open({:?}, 'w').write('x')", assigned.tmp.join("file")));
    assert!(assigned.tmp.join("file").exists());
    if has(&[Layer::Landlock]) {
        assert_eq!(agent.run(&format!("open({:?})", world.path("secret"))), "PermissionError 13");
        assert_eq!(agent.run("open('/tmp/hydra-jail-escape', 'w')"), "PermissionError 13");
    }
    drop(agent);
    until("the end of its directory", || !assigned.tmp.exists()).await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_a_reason() {
    let world = World::new();
    let mut jail = world.jail();
    jail.program = "/usr/bin/no-such-program".into();
    let error = jail.spawn(world.dir.path()).await.expect_err("there is no such program").to_string();
    assert!(error.contains("/usr/bin/no-such-program") && error.contains("No such file"), "{error}");
    let mut jail = world.jail();
    jail.readable = vec!["/".into()];
    if has(&[Layer::Mount]) {
        let error = jail.spawn(world.dir.path()).await.expect_err("the whole root").to_string();
        assert!(error.contains("readable path /"), "{error}");
    }
    let mut agent = world.start(&world.jail()).await;
    for outside in
        [world.path("agent"), world.path("store"), world.path("store/one/../two"), world.path("store/none")]
    {
        let error =
            agent.jailed.assign(&outside, &Limits { memory_mib: 64 }).await.expect_err("outside").to_string();
        assert!(error.contains("cannot show the code"), "{error}");
    }
    agent.assign(&world, "one").await.expect("a refusal costs nothing");
}

/// Runs `program` as the agent and returns its standard output, and its errors if it failed.
async fn output_of(world: &World, jail: &Jail) -> String {
    let mut jailed = jail.spawn(world.dir.path()).await.expect("the jail starts");
    let (out, err) = jailed.take_output();
    let readers = [out, err].map(|end| {
        std::thread::spawn(move || {
            let mut text = String::new();
            std::fs::File::from(end).read_to_string(&mut text).map(|_| text)
        })
    });
    let status =
        tokio::time::timeout(Duration::from_secs(60), jailed.wait()).await.expect("in time").expect("ended");
    drop(jailed);
    let [out, err] = readers.map(|reader| reader.join().expect("it read").expect("text"));
    assert!(status.success(), "{status}: {out} {err}");
    out.trim().to_owned()
}

#[tokio::test]
async fn node_runs() {
    let node = Path::new("/usr/bin/node");
    if !node.exists() {
        eprintln!("SKIPPED: there is no {}", node.display());
        return;
    }
    let world = World::new();
    let program = r#"
const { Worker, isMainThread } = require('worker_threads'), fs = require('fs');
const { execFileSync } = require('child_process'), http = require('http'), crypto = require('crypto');
fs.writeFileSync('/tmp/a', crypto.randomBytes(8)); fs.copyFileSync('/tmp/a', '/tmp/b');
const shell = execFileSync('/bin/sh', ['-c', 'echo child']).toString().trim();
const server = http.createServer((_, r) => r.end('http')).listen(0, '127.0.0.1', async () => {
  const text = await (await fetch('http://127.0.0.1:' + server.address().port)).text();
  new Worker("require('worker_threads').parentPort.postMessage('thread')", { eval: true }).on('message', m => {
    console.log(shell, text, m, fs.readdirSync('/tmp').filter(n => n.length == 1).join()); server.close(); process.exit(0);
  });
});"#;
    let mut jail = world.jail();
    jail.program = node.into();
    jail.arguments = vec!["-e".into(), program.into()];
    assert_eq!(output_of(&world, &jail).await, "child http thread a,b");
}

#[tokio::test]
async fn java_runs() {
    let (java, compiler) = (Path::new("/usr/bin/java"), Path::new("/usr/bin/javac"));
    if !java.exists() || !compiler.exists() {
        eprintln!("SKIPPED: there is no {} or no {}", java.display(), compiler.display());
        return;
    }
    let world = World::new();
    let program = r#"
import java.nio.file.*; import java.util.stream.*;
public class Main { public static void main(String[] a) throws Exception {
    var child = new String(new ProcessBuilder("/bin/echo", "child").start().getInputStream().readAllBytes()).trim();
    Files.writeString(Path.of("/tmp/a"), "file");
    var server = new java.net.ServerSocket(0, 1, java.net.InetAddress.getLoopbackAddress());
    new java.net.Socket(server.getInetAddress(), server.getLocalPort()).close();
    var random = new java.security.SecureRandom().nextInt();
    System.out.println(child + " " + Files.readString(Path.of("/tmp/a")) + " "
        + IntStream.range(0, 1000).parallel().map(i -> i % 2).sum());
} }"#;
    let source = world.path("agent/Main.java");
    std::fs::write(&source, program).expect("written");
    let compiled = std::process::Command::new(compiler).arg(&source).status().expect("the compiler runs");
    assert!(compiled.success());
    let mut jail = world.jail();
    jail.program = java.into();
    jail.arguments = vec!["-cp".into(), world.path("agent").into(), "Main".into()];
    assert_eq!(output_of(&world, &jail).await, "child file 500");
}

/// Prints how long a jail takes, beside a bare process: `cargo test --test jail -- --ignored --nocapture measure`.
#[tokio::test]
#[ignore = "measures, and asserts nothing about time"]
async fn measure() {
    const RUNS: usize = 30;
    let world = World::new();
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    drop(world.start(&world.jail()).await);
    let mut bare = Vec::new();
    let [mut spawned, mut greeted, mut assigned, mut measured, mut ended] = [const { Vec::new() }; 5];
    for _ in 0..RUNS {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let begin = Instant::now();
        let mut process = std::process::Command::new("/usr/bin/python3")
            .arg("-u")
            .arg(world.path("agent/agent.py"))
            .arg("0")
            .env_clear()
            .stdin(std::os::fd::OwnedFd::from(theirs))
            .spawn()
            .expect("it starts");
        let mut hello = String::new();
        BufReader::new(ours).read_line(&mut hello).expect("a greeting");
        bare.push(begin.elapsed());
        process.wait().expect("reaped");

        let begin = Instant::now();
        let mut jailed = world.jail().spawn(world.dir.path()).await.expect("the jail starts");
        spawned.push(begin.elapsed());
        let mut channel = BufReader::new(jailed.take_channel());
        channel.read_line(&mut hello).expect("a greeting");
        greeted.push(begin.elapsed());
        let begin = Instant::now();
        jailed.assign(&world.path("store/one"), &Limits { memory_mib: 64 }).await.expect("assigned");
        assigned.push(begin.elapsed());
        let begin = Instant::now();
        jailed.memory().expect("measured");
        measured.push(begin.elapsed());
        let begin = Instant::now();
        jailed.kill();
        jailed.wait().await.expect("ended");
        ended.push(begin.elapsed());
    }
    println!("bare process until its greeting {:?}", median(bare));
    println!("jail: spawn {:?}, until the greeting {:?}", median(spawned), median(greeted));
    println!("assign {:?}, memory {:?}, end {:?}", median(assigned), median(measured), median(ended));
}

#[tokio::test]
async fn any_one_layer_may_be_missing() {
    let world = World::new();
    let layers = [
        Layer::User,
        Layer::Identity,
        Layer::Mount,
        Layer::Pid,
        Layer::Proc,
        Layer::Ipc,
        Layer::Hostname,
        Layer::Seccomp,
        Layer::Landlock,
        Layer::Privileges,
        Layer::Processes,
        Layer::Cgroup,
    ];
    for layer in layers {
        let mut jail = world.jail();
        jail.network = Network::Host;
        jail.without = vec![layer];
        let ordinary = !nix::unistd::geteuid().is_root();
        if ordinary && matches!(layer, Layer::User | Layer::Privileges) {
            eprintln!("SKIPPED: without {layer:?} an ordinary user has none of the others either");
            continue;
        }
        if layer == Layer::Privileges {
            // Without no_new_privs neither of these can be installed.
            jail.without.extend([Layer::Seccomp, Layer::Landlock]);
        }
        let mut agent = world.start(&jail).await;
        let assigned = agent.assign(&world, "two").await.unwrap_or_else(|e| panic!("without {layer:?}: {e}"));
        let read = format!("print(open({:?}).read(), os.getuid() != 0)", assigned.code.join("main.py"));
        let expected =
            if layer == Layer::Identity && !has(&[Layer::User]) { "TWO False" } else { "TWO True" };
        assert_eq!(agent.run(&read), expected, "without {layer:?}");
    }
}
