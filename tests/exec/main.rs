//! Programs run natively and in a microVM by `hydra exec`: same output, same exit status.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take, in the microVM and under load.
const DEADLINE: Duration = Duration::from_secs(120);

/// A program of the table: a name, the command, and a file for standard input.
struct Case {
    name: &'static str,
    command: Vec<String>,
}

fn case(name: &'static str, command: &[&str]) -> Case {
    Case { name, command: command.iter().map(|word| (*word).to_owned()).collect() }
}

/// Why there is no microVM here; a failure where there must be one.
fn without_kvm() -> Option<String> {
    let reason = match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => return None,
        Err(error) => format!("/dev/kvm cannot be opened: {error}"),
    };
    assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{reason}");
    eprintln!("SKIPPED: {reason}");
    Some(reason)
}

/// Runs a command to its end, with a clean environment that is the same natively and in the guest.
fn run(mut command: Command) -> Output {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LANG", "C.UTF-8").env("HOME", "/tmp");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let watchdog = std::thread::spawn({
        let begun = Instant::now();
        move || {
            // Ends early when the child is gone: it is a zombie or reaped then.
            while begun.elapsed() < DEADLINE {
                std::thread::park_timeout(DEADLINE - begun.elapsed());
                if begun.elapsed() < DEADLINE {
                    return;
                }
            }
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let mut output = Output { status: Default::default(), stdout: Vec::new(), stderr: Vec::new() };
    let mut errors = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut errors, &mut text).map(|_| text)
    });
    std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut output.stdout).unwrap();
    output.stderr = reader.join().unwrap().unwrap();
    output.status = child.wait().unwrap();
    watchdog.thread().unpark();
    watchdog.join().unwrap();
    output
}

fn native(words: &[String]) -> Output {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    run(command)
}

fn guest(words: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydra"));
    command
        .args(["exec", "--env", "LANG=C.UTF-8", "--env", "HOME=/tmp", "--env", "PATH=/usr/bin:/bin", "--"])
        .args(words);
    run(command)
}

/// As a shell tells it: the exit code, or 128 and the number of the signal.
fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0))
}

/// Output for a message: the beginning.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned()
}

fn check(cases: &[Case]) {
    if without_kvm().is_some() {
        return;
    }
    let mut wrong = Vec::new();
    for Case { name, command } in cases {
        if !Path::new(&command[0]).exists() {
            eprintln!("SKIPPED {name}: {} is not installed", command[0]);
            assert!(
                std::env::var_os("HYDRA_REQUIRE_ALL").is_none(),
                "{name}: {} is not installed",
                command[0]
            );
            continue;
        }
        let (expected, got) = (native(command), guest(command));
        if (status(&expected), &expected.stdout) != (status(&got), &got.stdout) {
            wrong.push(format!(
                "{name}: natively {} {:?}, in the guest {} {:?}\n  {}",
                status(&expected),
                shown(&expected.stdout),
                status(&got),
                shown(&got.stdout),
                shown(&got.stderr)
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Builds one of the guest programs in `tests/exec` with the system's C compiler.
fn build(source: &str, flags: &[&str]) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}{}", flags.join("")));
    let built = Command::new("cc")
        .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&out)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/exec").join(source))
        .args(flags)
        .status()
        .unwrap();
    assert!(built.success(), "cc {source}");
    out
}

#[test]
fn ordinary_programs() {
    check(&[
        case("a static program", &["/usr/bin/busybox", "seq", "3"]),
        case("a directory", &["/usr/bin/busybox", "ls", "/usr/lib/python3"]),
        case(
            "a shell without fork",
            &["/usr/bin/bash", "-c", "for i in 1 2 3; do echo $((i * i)); done; exit 7"],
        ),
        case("a digest", &["/usr/bin/openssl", "dgst", "-sha256", "/usr/bin/bash"]),
        case("compression with threads", &["/usr/bin/xz", "-T2", "-2", "--stdout", "/usr/bin/bash"]),
        case("a file that is not there", &["/usr/bin/busybox", "cat", "/nonexistent"]),
    ]);
}

#[test]
fn c_programs_by_every_way_of_linking() {
    for flags in [&["-static"][..], &["-static-pie"], &["-no-pie"], &[]] {
        let program = build("threads.c", flags).display().to_string();
        check(&[case("threads, futexes, signals and floats", &[&program])]);
    }
}

#[test]
fn python_programs() {
    let python = |name, code| case(name, &["/usr/bin/python3.11", "-I", "-c", code]);
    check(&[
        python("print", "print(1)"),
        python("exit", "import sys; sys.exit(3)"),
        python("a signal", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"),
        python("a fault", "import ctypes; ctypes.string_at(8)"),
        python("digests", "import hashlib; print(hashlib.sha256(b'x' * 10_000_000).hexdigest())"),
        python(
            "threads",
            "import threading, queue\nq = queue.Queue()\n\
             ts = [threading.Thread(target=lambda i=i: q.put(sum(range(i * 1000)))) for i in range(16)]\n\
             [t.start() for t in ts]; [t.join() for t in ts]\nprint(sorted(q.get() for _ in ts))",
        ),
        python(
            "files",
            "import tempfile, os\nwith tempfile.TemporaryDirectory() as d:\n p = os.path.join(d, 'f')\n \
             open(p, 'w').write('x' * 100_000); os.rename(p, p + '2'); os.symlink('f2', p)\n \
             print(len(open(p).read()), sorted(os.listdir(d)), os.stat(p).st_size, os.readlink(p))",
        ),
        python(
            "loopback sockets",
            "import socket, threading\ns = socket.create_server(('127.0.0.1', 0))\n\
             threading.Thread(target=lambda: s.accept()[0].sendall(b'hello' * 20_000)).start()\n\
             c = socket.create_connection(s.getsockname()); n = 0\nwhile b := c.recv(65536): n += len(b)\nprint(n)",
        ),
        python(
            "asyncio",
            "import asyncio\nasync def main():\n async def one(i):\n  await asyncio.sleep(i / 100); return i\n \
             print(await asyncio.gather(*map(one, range(10))))\nasyncio.run(main())",
        ),
        python(
            "a database",
            "import sqlite3; print(sqlite3.connect(':memory:').execute('select 6 * 7').fetchone())",
        ),
        python("numbers", "import json, math; print(json.dumps([math.sin(i) for i in range(100)]))"),
    ]);
}

#[test]
fn a_program_that_is_not_there_is_a_clear_error() {
    if without_kvm().is_some() {
        return;
    }
    let output = guest(&["/nonexistent/program".to_owned()]);
    assert_eq!(status(&output), 125);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("/nonexistent/program") && error.lines().count() == 1, "{error}");
}
