//! `hydra exec`: programs do in a microVM what they do natively.

#[path = "exec/runtimes.rs"]
mod runtimes;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest time for one program.
const LIMIT: Duration = Duration::from_secs(120);

/// Whether microVMs can run; if not, says so. `HYDRA_REQUIRE_KVM` turns that into a failure.
fn can_run(test: &str) -> bool {
    match hydra::vmm::Hypervisor::get() {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{error}");
            eprintln!("{test} skipped: {error}");
            false
        }
    }
}

/// The program's path, if it is installed. `HYDRA_REQUIRE_ALL` makes one that is missing a failure.
fn installed(program: &str) -> Option<PathBuf> {
    let found = if program.starts_with('/') {
        Path::new(program).exists().then(|| program.into())
    } else {
        ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
            .iter()
            .map(|dir| Path::new(dir).join(program))
            .find(|p| p.exists())
    };
    assert!(found.is_some() || !is_all_required(), "{program} is not installed");
    found
}

/// Whether what is missing is a failure.
fn is_all_required() -> bool {
    std::env::var_os("HYDRA_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// Runs a command with a plain environment and a time limit.
fn run(mut command: Command) -> Output {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8").env("HOME", "/tmp");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the command starts");
    let id = child.id();
    let started = Instant::now();
    let (done, wait) = std::sync::mpsc::channel();
    let watch = std::thread::spawn(move || {
        if wait.recv_timeout(LIMIT).is_err() {
            // SAFETY: plain system call; the child is not reaped before `done` is sent.
            unsafe { libc::kill(id as i32, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().expect("the command ends");
    let _ = done.send(());
    watch.join().expect("the watch ends");
    assert!(started.elapsed() < LIMIT, "{command:?} did not end in time");
    output
}

fn natively(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args);
    run(command)
}

fn in_guest(options: &[&str], program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydra"));
    command.arg("exec").args(options).arg("--").arg(program).args(args);
    run(command)
}

/// The exit status as a shell shows it.
fn status(output: &Output) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0))
}

fn same(name: &str, program: &Path, args: &[&str]) {
    same_with(&[], name, program, args);
}

/// Runs a program natively and in the guest with these options: output and exit status must be the same.
fn same_with(options: &[&str], name: &str, program: &Path, args: &[&str]) {
    same_but_for(str::to_owned, options, name, program, args);
}

/// The same, of what `essence` makes of the output.
fn same_but_for(essence: fn(&str) -> String, options: &[&str], name: &str, program: &Path, args: &[&str]) {
    let (native, guest) = (natively(program, args), in_guest(options, program, args));
    let text = |o: &Output| (essence(&String::from_utf8_lossy(&o.stdout)), status(o));
    let errors = String::from_utf8_lossy(&guest.stderr).into_owned();
    assert_eq!(text(&guest), text(&native), "{name}: the guest differs; its standard error: {errors}");
}

/// Each line's words, less those that begin with a digit: what a program measured.
fn without_figures(output: &str) -> String {
    let figure = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let line = |line: &str| line.split_whitespace().filter(|w| !figure(w)).collect::<Vec<_>>().join(" ");
    output.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Compiles a program of `tests/guests`, unless that was done since it was changed.
fn compiled(name: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}{}", flags.concat()));
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    if changed(&target) < changed(&source) {
        // Tests in other processes may do the same at the same time.
        let new = target.with_added_extension(std::process::id().to_string());
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-w", "-pthread"]).args(flags).arg("-o").arg(&new).arg(source);
        assert!(gcc.status().expect("gcc is installed").success());
        std::fs::rename(&new, &target).expect("the program is put in its place");
    }
    target
}

/// One test for each program of `tests/guests`, linked in each way.
macro_rules! guests {
    ($($test:ident: $file:literal $flags:expr;)*) => {$(
        #[test]
        fn $test() {
            if can_run(stringify!($test)) {
                same($file, &compiled($file, &$flags), &[]);
            }
        }
    )*
        #[test]
        fn the_programs_compile() {
            $(compiled($file, &$flags);)*
        }
    };
}

guests! {
    threads: "threads.c" [];
    threads_static: "threads.c" ["-static"];
    signals: "signals.c" [];
    signals_fixed_address: "signals.c" ["-no-pie"];
    memory: "memory.c" [];
    large_memory: "large_memory.c" [];
    call_sites: "call_sites.c" [];
    call_sites_fixed_address: "call_sites.c" ["-no-pie"];
    call_sites_static: "call_sites.c" ["-static"];
    memory_static_pie: "memory.c" ["-static-pie"];
    mappings: "mappings.c" [];
    files: "files.c" [];
    tmpfs: "tmpfs.c" [];
    locks: "locks.c" [];
    events: "events.c" [];
    pipes: "pipes.c" [];
    unix_sockets: "unix.c" [];
    clocks: "clocks.c" [];
    timers: "timers.c" [];
    signal_queues: "signal_queues.c" [];
}

#[test]
fn installed_programs_do_what_they_do_natively() {
    if !can_run("installed_programs_do_what_they_do_natively") {
        return;
    }
    let sha = "import hashlib; print(hashlib.sha256(bytes(10**6)).hexdigest())";
    let database = "import fcntl, sqlite3, tempfile\nfor place in '/tmp', '/dev/shm':\n with tempfile.TemporaryDirectory(dir=place) as folder:\n\
                     \x20 file = open(folder + '/lock', 'w'); fcntl.lockf(file, fcntl.LOCK_EX)\n\
                     \x20 base = sqlite3.connect(folder + '/base'); base.execute('create table t (n)')\n\
                     \x20 base.execute('insert into t values (7)'); base.commit(); print(*base.execute('select * from t'))";
    let table: &[(&str, &[&str])] = &[
        ("busybox", &["echo", "one", "two"]),
        ("busybox", &["ls", "-l", "/usr/share/zoneinfo/Europe"]),
        ("bash", &["-c", "s=0; for i in {1..1000}; do ((s += i)); done; echo $s; exit 3"]),
        ("bash", &["-c", "kill -TERM $$"]),
        (
            "sqlite3",
            &[
                ":memory:",
                "with recursive n(i) as (select 1 union select i+1 from n limit 1000) select sum(i*i) from n",
            ],
        ),
        ("openssl", &["dgst", "-sha256", "/usr/bin/openssl"]),
        ("xz", &["-T2", "-c", "/usr/bin/xz"]),
        ("zstd", &["-T2", "-c", "/usr/bin/xz"]),
        ("sha256sum", &["/usr/bin/openssl"]),
        ("sort", &["/usr/share/common-licenses/GPL-3"]),
        ("awk", &["BEGIN { for (i = 0; i < 1000; i++) s += i; print s; exit 4 }"]),
        ("perl", &["-e", "print join(',', map { $_ * 2 } 1..10), \"\\n\"; exit 5"]),
        ("/usr/bin/python3.11", &["-c", "print(1)"]),
        ("/usr/bin/python3.11", &["-c", sha]),
        (
            "/usr/bin/python3.11",
            &["-c", "import json, re, sqlite3, asyncio, ssl; print(asyncio.run(asyncio.sleep(0.01, 5)))"],
        ),
        ("/usr/bin/python3.11", &["-c", database]),
        ("/usr/bin/python3.11", &["-c", "import sys; sys.exit(77)"]),
        ("/usr/bin/python3.11", &["-c", "import os; os.abort()"]),
        ("/usr/bin/node", &["-e", "setTimeout(() => console.log([1, 2, 3].map(x => x * x)), 5)"]),
    ];
    if let Some(openssl) = installed("openssl") {
        let args = ["speed", "-seconds", "1", "sha256"];
        // Hardware KVM does not give a guest all features of the CPU.
        let essence = |output: &str| {
            let lines = output.lines().filter(|line| !line.starts_with("CPUINFO"));
            without_figures(&lines.collect::<Vec<_>>().join("\n"))
        };
        same_but_for(essence, &[], "openssl speed", &openssl, &args);
    }
    for (program, args) in table {
        match installed(program) {
            Some(path) => same(&format!("{program} {args:?}"), &path, args),
            None => eprintln!("{program} skipped: it is not installed"),
        }
    }
}

#[test]
fn there_is_no_need_for_memory_for_what_is_not_read() {
    if !can_run("there_is_no_need_for_memory_for_what_is_not_read") {
        return;
    }
    let Some(python) = installed("/usr/bin/python3.11") else {
        return eprintln!("skipped: Python is not installed");
    };
    // Twice what there is; a large file in one piece; and as much as a stream holds.
    let code = "import hashlib, os, socket, tempfile, threading\nmost = 1 << 29\n\
                r, w = os.pipe(); os.write(w, b'x'); print(os.read(r, most))\n\
                a, b = socket.socketpair(); a.send(b'y'); print(b.recv(most)); a.send(b'z'); print(os.read(b.fileno(), most))\n\
                text = bytes(range(251)) * 25000\n\
                with tempfile.TemporaryFile() as file:\n\
                \x20file.write(text); file.flush(); fd = file.fileno()\n\
                \x20print(hashlib.md5(os.pread(fd, most, 7)).hexdigest(), os.lseek(fd, 0, 0), os.read(fd, 3 << 20) == text[:3 << 20])\n\
                \x20print(os.lseek(fd, 0, 1), os.read(fd, most) == text[3 << 20:], os.read(fd, most))\n\
                threading.Thread(target=a.sendall, args=[text]).start()\n\
                print(b.recv(len(text), socket.MSG_WAITALL) == text)";
    same_with(&["--memory", "256"], "large reads", &python, &["-c", code]);
}

#[test]
fn a_rust_program_runs_static_and_dynamic() {
    if !can_run("a_rust_program_runs_static_and_dynamic") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let source = dir.path().join("hello.rs");
    let text = "fn main() { let v: Vec<_> = (0..4).map(|i| std::thread::spawn(move || i * i)).collect();
        let s: i32 = v.into_iter().map(|t| t.join().unwrap()).sum(); println!(\"{s}\"); std::process::exit(9) }";
    std::fs::write(&source, text).expect("the source is written");
    for (name, feature) in [("dynamic", "-crt-static"), ("static", "+crt-static")] {
        let target = dir.path().join(name);
        let mut rustc = Command::new("rustc");
        rustc.arg("-C").arg(format!("target-feature={feature}")).arg("-o").arg(&target).arg(&source);
        assert!(rustc.status().expect("rustc is installed").success());
        same(name, &target, &[]);
    }
}

#[test]
fn a_go_program_runs() {
    if !can_run("a_go_program_runs") {
        return;
    }
    let Some(go) = installed("go") else {
        return eprintln!("a_go_program_runs skipped: go is not installed");
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (Path::new("tests/guests/goroutines.go"), dir.path().join("goroutines"));
    let mut build = Command::new(go);
    build.arg("build").arg("-o").arg(&target).arg(source).env("GOCACHE", dir.path().join("cache"));
    assert!(build.status().expect("go runs").success());
    same("goroutines.go", &target, &["one", "two"]);
}

#[test]
fn the_root_is_what_was_mounted() {
    if !can_run("the_root_is_what_was_mounted") {
        return;
    }
    let Some(busybox) = installed("busybox") else { return eprintln!("skipped: busybox is not installed") };
    let dir = tempfile::tempdir().expect("a directory");
    let (root, data) = (dir.path().join("root"), dir.path().join("data"));
    for made in [root.join("bin"), data.clone()] {
        std::fs::create_dir_all(made).expect("a directory");
    }
    std::fs::copy(busybox, root.join("bin/busybox")).expect("busybox is copied");
    std::fs::write(data.join("file"), "content").expect("a file");
    let mount = format!("{}:/data:ro", data.display());
    let options = ["--root", root.to_str().expect("UTF-8"), "--mount", &mount, "--env", "NAME=value"];
    let guest = |args: &[&str]| in_guest(&options, Path::new("/bin/busybox"), args);
    assert_eq!(guest(&["cat", "/data/file"]).stdout, b"content");
    assert_eq!(guest(&["ls", "/"]).stdout, b"bin\n");
    assert_eq!(guest(&["sh", "-c", "echo $NAME"]).stdout, b"value\n");
    let written = guest(&["sh", "-c", "echo x > /data/new"]);
    assert_ne!(status(&written), 0);
    assert!(String::from_utf8_lossy(&written.stderr).contains("Read-only file system"));
    assert_eq!(status(&guest(&["cat", "/../../../../etc/passwd"])), 1);
}

#[test]
fn a_program_reaches_the_network_that_it_was_given() {
    if !can_run("a_program_reaches_the_network_that_it_was_given") {
        return;
    }
    let Some(python) = installed("/usr/bin/python3.11") else {
        return eprintln!("skipped: Python is not installed");
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port().to_string();
    let ask = "import socket, sys\ntry: socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print('reached')\n\
               except OSError as e: print(type(e).__name__)";
    let own = "import socket, threading\nl = socket.create_server(('', 0))\n\
               c = socket.create_connection(('127.0.0.1', l.getsockname()[1])); a, _ = l.accept(); c.sendall(b'own')\n\
               print(a.recv(3), [name for _, name in socket.if_nameindex()])\n\
               try: socket.create_connection(('192.0.2.1', 9), 5)\nexcept OSError as e: print(e.strerror)";
    let guest = |network: &str, args: &[&str]| {
        let output = in_guest(&["--network", network], &python, args);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert_eq!(guest("open", &["-c", ask, &port]), "reached\n");
    assert_eq!(guest("loopback", &["-c", ask, &port]), "ConnectionRefusedError\n");
    assert_eq!(guest("loopback", &["-c", own]), "b'own' ['lo']\nNetwork is unreachable\n");
    assert_eq!(guest("closed", &["-c", ask, &port]), "PermissionError\n");
}

#[test]
fn runtimes_talk_over_their_own_loopback() {
    if !can_run("runtimes_talk_over_their_own_loopback") {
        return;
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let dir = tempfile::tempdir().expect("a directory");
    let classes = dir.path().to_str().expect("UTF-8");
    let script = sources.join("network.js");
    let mut programs: Vec<(PathBuf, Vec<&str>)> = Vec::new();
    match installed("/usr/bin/node") {
        Some(node) => programs.push((node, vec![script.to_str().expect("UTF-8")])),
        None => eprintln!("node skipped: it is not installed"),
    }
    match (installed("java"), installed("javac")) {
        (Some(java), Some(javac)) => {
            let mut compiler = Command::new(javac);
            compiler.args(["-d", classes]).arg(sources.join("Network.java"));
            assert!(compiler.status().expect("javac runs").success());
            programs.push((java, vec!["-cp", classes, "Network"]));
        }
        _ => eprintln!("java skipped: it is not installed"),
    }
    for (program, args) in programs {
        let (native, guest) =
            (natively(&program, &args), in_guest(&["--network", "loopback"], &program, &args));
        let errors = String::from_utf8_lossy(&guest.stderr).into_owned();
        assert_eq!(guest.stdout, native.stdout, "{}: {errors}", program.display());
        assert!(!native.stdout.is_empty() && status(&native) == 0);
    }
}

#[test]
fn the_terminal_is_one_that_was_inherited_or_none() {
    if !can_run("the_terminal_is_one_that_was_inherited_or_none") {
        return;
    }
    let Some(cat) = installed("cat") else { return eprintln!("skipped: cat is not installed") };
    let output = in_guest(&[], &cat, &["/dev/tty"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("No such device or address"), "{errors}");
}

#[test]
fn calls_are_traced() {
    if !can_run("calls_are_traced") {
        return;
    }
    let Some(busybox) = installed("busybox") else { return eprintln!("skipped: busybox is not installed") };
    let traced = in_guest(&["--trace"], &busybox, &["echo", "hello"]);
    let lines = String::from_utf8_lossy(&traced.stderr).into_owned();
    assert!(lines.contains("write(1, \"hello\\n\", 6) = 6"), "{lines}");
}

#[test]
fn calls_are_answered_without_an_exit_where_exits_are_dear() {
    if !can_run("calls_are_answered_without_an_exit_where_exits_are_dear") {
        return;
    }
    let is_emulated = hydra::vmm::Hypervisor::get().is_ok_and(|kvm| kvm.sort() == hydra::vmm::Sort::Emulated);
    if !is_emulated || std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return eprintln!(
            "skipped: an exit costs little on this KVM, or there is no processor to answer from"
        );
    }
    let Some(dd) = installed("dd") else { return eprintln!("skipped: dd is not installed") };
    let counted = in_guest(&["--counts"], &dd, &["if=/dev/zero", "of=/dev/null", "bs=1", "count=20000"]);
    let text = String::from_utf8_lossy(&counted.stderr).into_owned();
    let count = |name: &str| {
        let line = text.lines().find(|line| line.split_whitespace().last() == Some(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
    };
    assert!(text.contains("20000 bytes"), "{text}");
    assert!(count("system_calls") > Some(40_000), "{text}");
    assert!(count("exitless_calls") > Some(0), "{text}");
}
