//! A program that is checkpointed and restored does what it does when nobody stops it.

mod reset;
mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use hydra::linux::net::Policy;
use hydra::linux::{ExitStatus, Guest, Mount, RestoreError, Rights, State, Surroundings};
use hydra::vmm;

use support::{Image, MEMORY, Streams, can_run, compiled, mounts, natively, start};

/// Moments to stop at: pauses of up to 40 ms, the same in every run.
struct Moments(u64);

impl Iterator for Moments {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(Duration::from_micros((self.0 >> 33) % 40_000))
    }
}

/// Runs the program in a guest that is replaced by its own checkpoint again and again, at arbitrary moments, and at last by `copies`.
/// Each must have done in the end what the program does natively. Programs that clean up after themselves cannot be two.
fn replaced_on_the_way(name: &str, command: &[&str], copies: usize, seed: u64) {
    let (expected, status) = natively(command);
    let mut streams = Streams::new();
    let mut guest = start(command, &streams);
    let mut ends = Vec::new();
    for (round, moment) in Moments(seed).take(6).enumerate() {
        // Not to wait for something: any moment will do.
        std::thread::sleep(moment);
        let Ok(checkpoint) = guest.checkpoint() else { break };
        let (image, clone) = (Image::of(&checkpoint), streams.fork());
        let last = round == 5;
        for _ in 1..if last { copies } else { 1 } {
            let other = streams.fork();
            ends.push((image.restore(&other), other));
        }
        let restored = image.restore(&clone);
        // The original does nothing more, to the host's files in particular.
        guest.kill();
        drop(checkpoint);
        (guest, streams) = (restored, clone);
    }
    ends.push((guest, streams));
    for (guest, streams) in ends {
        let ended = guest.wait().expect("it ends");
        assert_eq!((streams.text(), ended), (expected.clone(), status), "{name}, seed {seed}");
    }
}

/// One test for each program of `tests/guests`.
macro_rules! guests {
    ($($test:ident: $file:literal $copies:literal;)*) => {$(
        #[test]
        fn $test() {
            if can_run(stringify!($test)) {
                let program = compiled($file);
                let program = program.to_str().expect("a path");
                for seed in 1..4 {
                    // An argument: without connections, which a checkpoint cuts.
                    replaced_on_the_way($file, &[program, "local"], $copies, seed);
                }
            }
        }
    )*};
}

guests! {
    threads: "threads.c" 2;
    signals: "signals.c" 2;
    memory: "memory.c" 1;
    large_memory: "large_memory.c" 1;
    call_sites: "call_sites.c" 1;
    mappings: "mappings.c" 1;
    files: "files.c" 1;
    locks: "locks.c" 2;
    events: "events.c" 2;
    unix_sockets: "unix.c" 1;
}

/// One test for each Python program.
macro_rules! python {
    ($($test:ident: $copies:literal $code:literal;)*) => {$(
        #[test]
        fn $test() {
            if can_run(stringify!($test)) {
                for seed in 1..4 {
                    let command = ["/usr/bin/python3.11", "-I", "-u", "-c", $code];
                    replaced_on_the_way(stringify!($test), &command, $copies, seed);
                }
            }
        }
    )*};
}

python! {
    python_threads: 2 r#"
import queue, threading, time
work, done = queue.Queue(3), queue.Queue()
def run():
    while (n := work.get()) is not None:
        time.sleep(0.002)
        done.put(n * n)
threads = [threading.Thread(target=run) for _ in range(5)]
[t.start() for t in threads]
for n in range(100): work.put(n)
for _ in threads: work.put(None)
[t.join() for t in threads]
print(sum(done.get() for _ in range(100)))
barrier = threading.Barrier(4)
def meet():
    for _ in range(30): barrier.wait()
threads = [threading.Thread(target=meet) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print("met")
"#;
    python_signals: 2 r#"
import signal, time, threading, os
rang = 0
def ring(*_):
    global rang
    rang += 1
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
while rang < 30: signal.pause()
signal.setitimer(signal.ITIMER_REAL, 0)
print("rang")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
main = threading.get_ident()
def send():
    time.sleep(0.05)
    signal.pthread_kill(main, signal.SIGUSR1)
threading.Thread(target=send).start()
print(signal.sigwait([signal.SIGUSR1]).name)
"#;
    python_pipes: 2 r#"
import hashlib, os, threading
r, w = os.pipe()
def write():
    for n in range(3000):
        os.write(w, bytes([n % 251]) * 500)
    os.close(w)
threading.Thread(target=write).start()
digest, total = hashlib.sha256(), 0
while data := os.read(r, 7000):
    digest.update(data); total += len(data)
print(total, digest.hexdigest())
"#;
    python_selectors: 2 r#"
import selectors, socket, threading, time
a, b = socket.socketpair()
chosen = selectors.EpollSelector()
a.setblocking(False)
chosen.register(a, selectors.EVENT_READ)
def speak():
    for n in range(60):
        b.sendall(b"%3d" % n); time.sleep(0.002)
    b.close()
threading.Thread(target=speak).start()
got = b""
while True:
    for key, _ in chosen.select():
        data = key.fileobj.recv(64)
        got += data
        if not data:
            print(got); raise SystemExit(len(got) % 256)
"#;
    python_asyncio: 1 r#"
import asyncio, os, tempfile
async def serve(reader, writer):
    while line := await reader.readline():
        await asyncio.sleep(0.001)
        writer.write(line.upper())
    writer.close()
async def ask(path, name):
    reader, writer = await asyncio.open_unix_connection(path)
    answers = []
    for n in range(20):
        writer.write(f"{name} {n}\n".encode())
        answers.append(await asyncio.wait_for(reader.readline(), 60))
    writer.close()
    return b"".join(answers)
async def main():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        server = await asyncio.start_unix_server(serve, path)
        for answer in await asyncio.gather(*(ask(path, f"client{i}") for i in range(4))):
            print(answer)
        loop = asyncio.get_running_loop()
        print(await loop.run_in_executor(None, sum, range(100000)))
        server.close()
asyncio.run(main())
"#;
    python_files: 1 r#"
import mmap, os, sqlite3, tempfile, time
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "lines")
    with open(path, "w+") as log, tempfile.TemporaryFile() as hidden:
        for n in range(200):
            log.write(f"{n}\n"); log.flush()
            hidden.write(b"%d," % n); hidden.flush()
            time.sleep(0.0005)
        log.seek(0); hidden.seek(0)
        print(sum(map(int, log)), len(hidden.read()))
    base = sqlite3.connect(os.path.join(folder, "base"))
    base.execute("create table t (n)")
    for n in range(30):
        base.execute("insert into t values (?)", (n,)); base.commit()
    print(base.execute("select sum(n) from t").fetchone())
    names = []
    for entry in os.scandir("/usr/share/zoneinfo/Europe"):
        names.append(entry.name); time.sleep(0.0002)
    print(len(names), hash(tuple(sorted(len(n) for n in names))) % 1000)
memory = mmap.mmap(-1, 1 << 20)
for n in range(256): memory[n * 4096] = n
print(sum(memory[n * 4096] for n in range(256)))
"#;
    python_time: 2 r#"
import time
last, wall = time.monotonic(), time.time()
for n in range(3000):
    now = time.monotonic()
    assert now >= last, (now, last)
    last = now
    if n % 100 == 0: time.sleep(0.003)
assert 0 < time.time() - wall < 600 and last - now < 600
print("forwards")
"#;
    python_sums: 2 r#"
import hashlib, json, re, zlib
text = json.dumps([{"n": n, "s": "x" * (n % 97)} for n in range(20000)])
print(hashlib.sha256(zlib.compress(text.encode())).hexdigest(), len(re.findall(r"x+", text)))
x = 0.0
for n in range(1, 300000): x += 1 / (n * n)
print(x)
"#;
}

#[test]
fn node_goes_on() {
    if !can_run("node_goes_on") {
        return;
    }
    let node = "/usr/bin/node";
    if !Path::new(node).exists() {
        return eprintln!("node_goes_on skipped: Node is not installed");
    }
    let code = "let n = 0; const t = setInterval(() => { console.log(n); if (++n == 40) clearInterval(t) }, 3);
        const { Worker } = require('worker_threads');
        new Worker('require(\"worker_threads\").parentPort.postMessage(7 * 6)', { eval: true }).on('message', m => setTimeout(() => console.log('answer', m), 400));";
    for seed in 1..3 {
        replaced_on_the_way("node", &[node, "-e", code], 2, seed);
    }
}

#[test]
fn a_program_and_its_clone_both_go_on() {
    if !can_run("a_program_and_its_clone_both_go_on") {
        return;
    }
    let streams = Streams::new();
    let code = "import time\nfor i in range(20):\n print(i, flush=True); time.sleep(0.02)";
    let guest = start(&["/usr/bin/python3.11", "-I", "-c", code], &streams);
    while streams.text().len() < 10 {
        std::thread::yield_now();
    }
    let checkpoint = guest.checkpoint().expect("a checkpoint");
    let image = Image::of(&checkpoint);
    let clone = streams.fork();
    drop(checkpoint);
    let restored = image.restore(&clone);
    assert_eq!(guest.wait().expect("it ends"), ExitStatus::Code(0));
    assert_eq!(restored.wait().expect("it ends"), ExitStatus::Code(0));
    let expected: String = (0..20).map(|i| format!("{i}\n")).collect();
    assert_eq!(streams.text(), expected);
    assert_eq!(clone.text(), expected);
}

/// A program that has something of everything and waits for input.
const IDLE: &str = "
import mmap, os, select, signal, socket, tempfile, threading, time
pipe, pair, event = os.pipe(), socket.socketpair(), os.eventfd(3)
chosen = select.epoll(); chosen.register(pair[0], select.EPOLLIN | select.EPOLLET); chosen.register(event)
hidden = tempfile.TemporaryFile(); hidden.write(b'hidden'); hidden.flush()
os.write(pipe[1], b'in the pipe'); pair[1].send(b'in the socket')
socket.send_fds(pair[1], [b'files'], [event])
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 1000)
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
names = os.scandir('/usr/share'); next(names)
listener = socket.create_server(('127.0.0.1', 0))
near = socket.create_connection(listener.getsockname()); far, _ = listener.accept()
print('ready', flush=True)
line = input()
near.settimeout(60)
try: near.recv(1)
except ConnectionResetError: print('reset')
print(near.recv(1), os.read(pipe[0], 99), pair[0].recv(13), os.eventfd_read(event))
print(socket.recv_fds(pair[0], 99, 1)[0], hidden.seek(0), hidden.read(), 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 1000)
print(line, flush=True); os._exit(7)
";

/// Starts [`IDLE`]; returns its checkpoint, made while it waits for input, and its output so far. The pipe's other end is kept open.
fn idle() -> (Image, Streams, OwnedFd) {
    let (input, feed) = rustix::pipe::pipe().expect("a pipe");
    let streams = Streams { input, output: tempfile::tempfile().expect("a file") };
    let guest = start(&["/usr/bin/python3.11", "-I", "-c", IDLE], &streams);
    while streams.text() != "ready\n" {
        assert!(!streams.text().contains("Error"), "{}", streams.text());
        std::thread::yield_now();
    }
    let checkpoint = guest.checkpoint().expect("a checkpoint");
    let second = guest.checkpoint().expect("another at the same time");
    assert_eq!(second.state().memory_size(), MEMORY);
    drop(second);
    let image = Image::of(&checkpoint);
    guest.kill();
    (image, streams, feed)
}

#[test]
fn many_clones_go_on_from_one_moment() {
    if !can_run("many_clones_go_on_from_one_moment") {
        return;
    }
    let (image, streams, _feed) = idle();
    let clones: Vec<_> = (0..8)
        .map(|n| {
            let (input, feed) = rustix::pipe::pipe().expect("a pipe");
            let streams = Streams { input, ..streams.fork() };
            let guest = image.restore(&streams);
            (n, guest, streams, feed)
        })
        .collect();
    for (n, guest, streams, feed) in clones {
        File::from(feed).write_all(format!("clone {n}\n").as_bytes()).expect("the input");
        assert_eq!(guest.wait().expect("it ends"), ExitStatus::Code(7), "{}", streams.text());
        let expected = format!(
            "ready\nreset\nb'' b'in the pipe' b'in the socket' 3\nb'files' 0 b'hidden' True\nclone {n}\n"
        );
        assert_eq!(streams.text(), expected);
    }
}

#[test]
fn a_damaged_state_is_refused_or_harmless() {
    if !can_run("a_damaged_state_is_refused_or_harmless") {
        return;
    }
    let (image, streams, _feed) = idle();
    let mut moments = Moments(7);
    let mut outcomes = [0, 0, 0];
    for _ in 0..300 {
        let mut bytes = image.state.clone();
        for _ in 0..3 {
            let at = moments.next().expect("endless").as_nanos() as usize * 7919 % bytes.len();
            bytes[at] = (moments.next().expect("endless").as_micros() % 256) as u8;
        }
        match postcard::from_bytes::<State>(&bytes) {
            Err(_) => outcomes[0] += 1,
            Ok(state) => match image.restore_as(state, &streams.fork()) {
                Err(_) => outcomes[1] += 1,
                Ok(guest) => {
                    guest.kill();
                    outcomes[2] += guest.wait().map_or(1, |_| 1);
                }
            },
        }
    }
    assert!(outcomes.iter().all(|n| *n > 0), "every sort of outcome was tried: {outcomes:?}");
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    if !can_run("what_does_not_fit_is_refused_with_the_reason") {
        return;
    }
    let (image, streams, _feed) = idle();
    let state = || postcard::from_bytes::<State>(&image.state).expect("the state");
    let small = tempfile::tempfile().expect("a file");
    small.set_len(64 << 20).expect("64 MiB");
    let small = vmm::Image::new(small, 64 << 20).expect("an image");
    let with = |mounts: Vec<Mount>, descriptors| Surroundings {
        mounts,
        descriptors,
        network: Policy::Open,
        rights: Rights::Own,
        trace: false,
        counters: Default::default(),
    };
    let refused = |outcome: Result<Guest, RestoreError>| outcome.err().expect("a refusal").to_string();
    let reason = refused(Guest::restore(state(), &small, None, with(mounts(), streams.descriptors())));
    assert!(reason.contains("bytes of RAM"), "{reason}");
    let memory = image.image(MEMORY);
    let reason = refused(Guest::restore(state(), &memory, None, with(mounts(), Vec::new())));
    assert!(reason.contains("descriptor 0"), "{reason}");
    let empty = tempfile::tempdir().expect("a directory");
    let elsewhere = vec![Mount { source: empty.path().into(), target: "/".into(), read_only: true }];
    let reason = refused(Guest::restore(state(), &memory, None, with(elsewhere, streams.descriptors())));
    assert!(reason.contains("cannot be opened"), "{reason}");
}

#[test]
fn files_in_guest_ram_are_the_clones_own() {
    if !can_run("files_in_guest_ram_are_the_clones_own") {
        return;
    }
    let code = r#"
import mmap, os
os.chdir("/dev/shm")
os.makedirs("a/b"); os.symlink("a/b", "link")
named = open("link/file", "w+"); named.write("named"); named.flush()
gone = open("gone", "w+b"); gone.write(b"gone" * 5000); gone.flush(); os.unlink("gone")
memory = os.memfd_create("memory"); os.truncate(memory, 8192)
one, two = mmap.mmap(memory, 8192), mmap.mmap(memory, 8192)
one[5000:5003] = b"one"
held = os.open("a", os.O_RDONLY)
print("ready", flush=True)
os.read(0, 1)
two[5000:5001] = b"O"
named.write(" and more"); named.close()
gone.seek(19996)
os.rename("a", "moved")
print(one[5000:5003], os.pread(memory, 3, 5000), open("moved/b/file").read(), gone.read(), flush=True)
print(sorted(os.listdir(".")), os.listdir(held), os.fstat(gone.fileno()).st_nlink, flush=True)
"#;
    let pipe = || rustix::pipe::pipe().expect("a pipe");
    let (ours, clones) = (pipe(), pipe());
    let streams = Streams { input: ours.0, output: tempfile::tempfile().expect("a file") };
    let guest = start(&["/usr/bin/python3.11", "-I", "-c", code], &streams);
    while !streams.text().contains("ready") {
        std::thread::yield_now();
    }
    let checkpoint = guest.checkpoint().expect("a checkpoint");
    let image = Image::of(&checkpoint);
    let clone = Streams { input: clones.0, ..streams.fork() };
    drop(checkpoint);
    let expected = "ready\nb'One' b'One' named and more b'gone'\n['link', 'moved'] ['b'] 0\n";
    // One after the other: what the first changes is not seen by the second.
    rustix::io::write(&ours.1, b"x").expect("written");
    assert_eq!(guest.wait().expect("it ends"), ExitStatus::Code(0), "{}", streams.text());
    assert_eq!(streams.text(), expected);
    let restored = image.restore(&clone);
    rustix::io::write(&clones.1, b"x").expect("written");
    assert_eq!(restored.wait().expect("it ends"), ExitStatus::Code(0), "{}", clone.text());
    assert_eq!(clone.text(), expected);
}
