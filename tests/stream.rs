//! The stream between a program and Hydra, compared with a pair of Linux's Unix sockets: the same program has its end of either.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::BytesMut;
use hydra::agent::transport::Transport;
use hydra::linux::identity::Identity;
use hydra::linux::net::Policy;
use hydra::linux::{Config, ExitStatus, Guest, Inherited, Mount, Rights, stream};

const PYTHON: &str = "/usr/bin/python3.11";
/// Bytes of a large message: more than either sort holds.
const LARGE: usize = 3 << 20;
/// How long a step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the program sees of its end, descriptor `argv[1]`, as it goes; `argv[2]` names what happens at last.
const PROGRAM: &str = r#"
import array, errno, fcntl, os, select, socket, sys, termios
fd, end, LARGE = int(sys.argv[1]), sys.argv[2], 3 << 20
s = socket.socket(fileno=fd)

def say(*what): print(*what, flush=True)

def attempt(call, *arguments):
    try: return call(*arguments)
    except OSError as error: return errno.errorcode[error.errno]

def events(timeout=0, wanted=0x201f):
    poll = select.poll()
    poll.register(s, wanted)
    return [hex(what) for _, what in poll.poll(timeout)]

def waiting():
    count = array.array("i", [0])
    fcntl.ioctl(s, termios.FIONREAD, count)
    return count[0]

def option(name, size=4): return s.getsockopt(socket.SOL_SOCKET, name, size).hex()

say("is", s.family, s.type, s.proto, repr(s.getsockname()), repr(s.getpeername()), oct(os.fstat(fd).st_mode))
say("options", option(socket.SO_ERROR), option(socket.SO_ACCEPTCONN), option(socket.SO_TYPE), option(socket.SO_LINGER, 8))
say("refused", attempt(s.listen), attempt(s.accept), attempt(s.sendto, b"x", "/x"), attempt(os.lseek, fd, 0, 0), attempt(os.pread, fd, 1, 0), attempt(os.posix_fallocate, fd, 0, 10))
say("at first", events(), waiting(), attempt(s.recv, 1, socket.MSG_DONTWAIT), attempt(s.send, b""))

s.send(b"hello?")
say("peeked", s.recv(3, socket.MSG_PEEK), waiting(), events())
say("parts", s.recv(2), os.read(fd, 1), waiting(), s.recvmsg(100, 100)[:2], attempt(s.recv, 1, socket.MSG_DONTWAIT))

edges = select.epoll()
edges.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
seen = lambda timeout: [hex(what) for _, what in edges.poll(timeout)]
say("edges", seen(0), seen(0))
for _ in range(2):
    s.send(b"more?")
    select.select([s], [], [])
    say("edges", seen(10), seen(0), s.recv(100))
edges.close()

s.sendall(b"x" * LARGE)
s.send(b"large?")
got = s.recv(LARGE, socket.MSG_WAITALL)
say("large", len(got), got.count(b"y"), attempt(s.recv, 1, socket.MSG_DONTWAIT))
other = os.dup(fd)
os.writev(other, [b"a", b"", b"vector"])
one, two = bytearray(3), bytearray(100)
say("vectors", os.readv(other, [one, two]), one, two[:3])
os.close(other)

s.setblocking(False)
while attempt(s.send, b"z" * 60000) != "EAGAIN": pass
say("full", events())
say("room", events(10000, select.POLLOUT))
s.settimeout(0.01)
try: s.recv(1)
except TimeoutError: say("nothing came in time")
s.settimeout(None)
s.sendall(b"END")
s.recv(2)

if end == "closed":
    say(end, s.recv(1), events(), attempt(s.send, b"x"), attempt(s.recv, 1), option(socket.SO_ERROR))
elif end == "unread":
    s.sendall(b"never read")
    say("sent")
    say(end, events(10000, 0), events(), attempt(s.recv, 1), attempt(s.recv, 1), attempt(s.send, b"x"), events())
elif end == "shut":
    s.shutdown(socket.SHUT_WR)
    say(end, attempt(s.send, b"x"), s.recv(100), events())
    s.shutdown(socket.SHUT_RD)
    say("deaf", attempt(s.recv, 1), events())
    s.recv(1)
"#;

/// What a program has printed.
fn text(output: &File) -> String {
    let mut bytes = vec![0; output.metadata().expect("its size").len() as usize];
    output.read_exact_at(&mut bytes, 0).expect("the output");
    String::from_utf8(bytes).expect("text")
}

/// Waits until the program has printed a line that begins so.
async fn said(output: &File, word: &str) {
    while !text(output).lines().any(|line| line.starts_with(word)) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Reads until what came ends with `end`; all of it.
async fn until(ours: &mut Transport, end: &[u8]) -> BytesMut {
    let mut got = BytesMut::new();
    while !got.ends_with(end) {
        assert_ne!(ours.read(&mut got).await.expect("the program's bytes"), 0, "the program has ended");
    }
    got
}

/// Hydra's part.
async fn converse(mut ours: Transport, end: &str, output: &File) {
    until(&mut ours, b"hello?").await;
    ours.write_all(b"hello to you").await.expect("sent");
    for _ in 0..2 {
        until(&mut ours, b"more?").await;
        ours.write_all(b"more").await.expect("sent");
    }
    let large = until(&mut ours, b"large?").await;
    assert!(large.len() == LARGE + 6 && large[..LARGE].iter().all(|byte| *byte == b'x'));
    ours.write_all(&vec![b'y'; LARGE]).await.expect("sent");
    until(&mut ours, b"avector").await;
    ours.write_all(b"backup").await.expect("sent");
    said(output, "full").await;
    let full = until(&mut ours, b"END").await;
    assert!(full[..full.len() - 3].iter().all(|byte| *byte == b'z'));
    ours.write_all(b"go").await.expect("sent");
    match end {
        "unread" => said(output, "sent").await,
        "shut" => {
            assert_eq!(ours.read(&mut BytesMut::new()).await.expect("the end"), 0);
            ours.write_all(b"last").await.expect("the program still reads");
            said(output, "deaf").await;
            let refused = ours.write_all(b"x").await.expect_err("nobody reads it");
            assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
        }
        _ => {}
    }
}

fn converse_within(ours: impl FnOnce() -> Transport, end: &str, output: &File) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let talk = async { tokio::time::timeout(PATIENCE, converse(ours(), end, output)).await };
    runtime.block_on(talk).unwrap_or_else(|_| panic!("{end}: it stopped after\n{}", text(output)));
}

fn natively(end: &str) -> String {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
    let output = tempfile::tempfile().expect("a file");
    let theirs = OwnedFd::from(theirs);
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).expect("it is inherited");
    let mut program = std::process::Command::new(PYTHON)
        .args(["-I", "-S", "-c", PROGRAM, &theirs.as_raw_fd().to_string(), end])
        .stdout(output.try_clone().expect("a descriptor"))
        .spawn()
        .expect("Python starts");
    drop(theirs);
    ours.set_nonblocking(true).expect("it never waits");
    converse_within(|| tokio::net::UnixStream::from_std(ours).expect("in the runtime").into(), end, &output);
    assert!(program.wait().expect("its end").success());
    text(&output)
}

fn in_a_guest(end: &str) -> String {
    let (ours, theirs) = stream();
    let output = tempfile::tempfile().expect("a file");
    let file = |write: bool| {
        let input = || File::open("/dev/null").expect("/dev/null");
        if write { output.try_clone().expect("a descriptor") } else { input() }
    };
    let host =
        |write: bool| Inherited::Host(file(write).into(), if write { libc::O_WRONLY } else { 0 } as u32);
    let arguments = [PYTHON, "-I", "-S", "-c", PROGRAM, "3", end];
    let guest = Guest::start(Config {
        memory: 128 << 20,
        mounts: vec![Mount { source: "/".into(), target: "/".into(), read_only: true }],
        program: PYTHON.into(),
        arguments: arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: vec![b"LANG=C.UTF-8".to_vec()],
        working_directory: "/".into(),
        descriptors: vec![host(false), host(true), host(true), Inherited::Stream(theirs)],
        umask: 0o022,
        identity: Identity::of_this_process(),
        network: Policy::Closed,
        rights: Rights::Own,
        trace: false,
        counters: Default::default(),
    })
    .expect("the program starts");
    converse_within(|| ours.into(), end, &output);
    assert_eq!(guest.wait().expect("the program ends"), ExitStatus::Code(0), "{}", text(&output));
    text(&output)
}

#[test]
fn a_program_cannot_tell_it_from_a_unix_socket() {
    if let Err(error) = hydra::vmm::Hypervisor::get() {
        assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{error}");
        return eprintln!("a_program_cannot_tell_it_from_a_unix_socket skipped: {error}");
    }
    for end in ["closed", "unread", "shut"] {
        let native = natively(end);
        assert!(native.lines().count() > 12, "{native}");
        assert_eq!(in_a_guest(end), native, "{end}");
    }
}
