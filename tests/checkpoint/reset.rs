//! A program that is put back to its checkpoint in place, in the microVM that it has run in since.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hydra::linux::net::Policy;
use hydra::linux::{ExitStatus, Guest, Rights, State, Surroundings};

use super::support::{Image, MEMORY, Streams, can_run, mounts, start};

/// A program that has something of everything, and then does what it is told.
const OBEDIENT: &str = r#"
import ctypes, mmap, os, random, resource, select, signal, socket, sys, tempfile, threading, time
pipe, pair, event = os.pipe(), socket.socketpair(), os.eventfd(3)
chosen = select.epoll(); chosen.register(pair[0], select.EPOLLIN | select.EPOLLET); chosen.register(event)
hidden = tempfile.TemporaryFile(); hidden.write(b'hidden'); hidden.flush()
os.write(pipe[1], b'in the pipe'); pair[1].send(b'in the socket')
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 1000)
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
mapped = mmap.mmap(-1, 1 << 20); mapped[:4] = b'here'
table = {str(n): [n] * 3 for n in range(20000)}
os.chdir('/dev/shm'); os.makedirs('folder'); open('folder/file', 'w').write('kept')
libc = ctypes.CDLL(None, use_errno=True)
print('ready', flush=True)
while True:
    exec(os.read(0, 1 << 16).decode())
    print('done', flush=True)
"#;

/// Changes whatever can be changed.
const WRECK: &str = r#"
mapped[:4] = b'gone'; mapped[4096 * 200:4096 * 200 + 1] = b'x'
table.clear(); more = [bytearray(100_000) for _ in range(300)]
wide = mmap.mmap(-1, 64 << 20); wide[::4096] = b'w' * (len(wide) // 4096); del more
os.read(pipe[0], 3); pair[0].recv(5); os.eventfd_write(event, 9); os.close(pipe[1])
spare = [os.dup(0) for _ in range(50)]; os.close(event)
hidden.seek(0); hidden.write(b'HIDDEN and longer'); hidden.flush()
open('folder/file', 'a').write(' and more'); os.rename('folder', 'moved'); open('new', 'w').write('new' * 5000)
os.chdir('/'); os.umask(0o777)
signal.signal(signal.SIGALRM, signal.SIG_IGN); signal.setitimer(signal.ITIMER_REAL, 5); signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
resource.setrlimit(resource.RLIMIT_NOFILE, (500, 1000))
[threading.Thread(target=time.sleep, args=(1000,), daemon=True).start() for _ in range(20)]
libc.sbrk(1 << 20); libc.prctl(15, b'wreck')
page = libc.mmap; page.restype = ctypes.c_void_p
libc.mprotect(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(wide)) & ~4095), 4096, 1)
listener = socket.create_server(('127.0.0.1', 0))
random.seed(1)
"#;

/// Looks at what [`WRECK`] changes.
const LOOK: &str = r#"
print(mapped[:4], mapped[4096 * 200], len(table), table['777'], 'wide' in globals(), sorted(os.listdir('/proc/self/fd'), key=int))
print(os.read(pipe[0], 99), pair[0].recv(99), os.eventfd_read(event), hidden.seek(0), hidden.read())
print(os.getcwd(), os.listdir(), open('folder/file').read(), oct(os.umask(0o22)), signal.getsignal(signal.SIGUSR1))
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending(), 900 < signal.getitimer(signal.ITIMER_REAL)[0] < 1000)
print(resource.getrlimit(resource.RLIMIT_NOFILE), threading.active_count(), open('/proc/self/comm').read())
print(len(open('/proc/self/maps').readlines()), libc.sbrk(0))
"#;

struct Copy {
    guest: Guest,
    streams: Streams,
    feed: File,
}

fn streams() -> (Streams, OwnedFd) {
    let (input, feed) = rustix::pipe::pipe().expect("a pipe");
    (Streams { input, output: tempfile::tempfile().expect("a file") }, feed)
}

impl Copy {
    fn of(image: &Image) -> Copy {
        let (streams, feed) = streams();
        Copy { guest: image.restore(&streams), streams, feed: feed.into() }
    }

    /// The same microVM with the program as it was.
    fn reset(self, image: &Image, original: &hydra::vmm::Image) -> Copy {
        let (streams, feed) = streams();
        let state: State = postcard::from_bytes(&image.state).expect("the state");
        let surroundings = Surroundings {
            mounts: mounts(),
            descriptors: streams.descriptors(),
            network: Policy::Loopback,
            rights: Rights::Own,
            trace: false,
            counters: Default::default(),
        };
        let reference = original.reference().expect("a mapping");
        let (guest, figures) = self.guest.reset(state, reference, surroundings).expect("a reset");
        assert!(figures.copied > 0, "{figures:?}");
        Copy { guest, streams, feed: feed.into() }
    }

    /// Has the program do something; returns what it printed.
    fn tell(&mut self, order: &str) -> String {
        let before = self.streams.text().len();
        self.feed.write_all(order.as_bytes()).expect("the order");
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(120), "no answer to {order}");
            let text = self.streams.text().split_off(before);
            if let Some(answer) = text.strip_suffix("done\n") {
                return answer.to_owned();
            }
            assert!(!text.contains("Error"), "{text}");
            std::thread::yield_now();
        }
    }

    /// The program's state as text, without what may differ from copy to copy: clocks, and frames that became page tables.
    fn state(&self) -> String {
        let checkpoint = self.guest.checkpoint().expect("a checkpoint");
        let text = format!("{:#?}", checkpoint.state());
        let mut kept = Vec::new();
        let mut in_frames = false;
        for line in text.lines() {
            let name = line.trim_start();
            in_frames |= name.starts_with("frames: SavedFrames");
            if in_frames {
                in_frames = name != "regions: [";
            } else if !name.starts_with("monotonic:") && !name.starts_with("cpu_time:") {
                kept.push(line);
            }
        }
        kept.join("\n")
    }

    /// The words of its RAM that are not those of `image`, by their place.
    fn changed_words(&self, image: &Image) -> Vec<(u64, u64, u64)> {
        let checkpoint = self.guest.checkpoint().expect("a checkpoint");
        let state: State = postcard::from_bytes(&image.state).expect("the state");
        let original = image.image(MEMORY);
        let original = original.reference().expect("a mapping");
        let mut changed = Vec::new();
        for run in state.runs() {
            let len = (run.end - run.start) as usize;
            let (mut now, mut then) = (vec![0; len], vec![0; len]);
            checkpoint.memory().slice(run.start, len).expect("RAM").copy_to(&mut now[..]);
            original.slice(run.start, len).expect("RAM").copy_to(&mut then[..]);
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            for (at, (now, then)) in now.chunks_exact(8).zip(then.chunks_exact(8)).enumerate() {
                if now != then {
                    changed.push((run.start + 8 * at as u64, word(then), word(now)));
                }
            }
        }
        changed
    }
}

fn image() -> Image {
    let (streams, _feed) = streams();
    let guest = start(&["/usr/bin/python3.11", "-I", "-c", OBEDIENT], &streams);
    while streams.text() != "ready\n" {
        assert!(!streams.text().contains("Error"), "{}", streams.text());
        std::thread::yield_now();
    }
    // It has yet to come from there to the wait for its orders.
    guest.settle(Duration::from_secs(120));
    let checkpoint = guest.checkpoint().expect("a checkpoint");
    let image = Image::of(&checkpoint);
    guest.kill();
    image
}

#[test]
fn everything_is_as_it_was() {
    if !can_run("everything_is_as_it_was") {
        return;
    }
    let image = image();
    let original = image.image(MEMORY);
    let mut fresh = Copy::of(&image);
    let expected = (fresh.state(), fresh.tell(LOOK));
    let mut copy = Copy::of(&image);
    for round in 0..6 {
        copy.tell(WRECK);
        copy = copy.reset(&image, &original);
        let (was, is) = (expected.0.lines(), copy.state());
        let differs = was.zip(is.lines()).find(|(was, is)| was != is);
        assert_eq!(differs, None, "round {round}");
        assert_eq!(is.lines().count(), expected.0.lines().count(), "round {round}");
        // The vDSO's data was renewed, and page tables that were linked stay linked: present, writable, user, accessed, dirty.
        let (links, mut renewed): (Vec<_>, Vec<_>) = copy
            .changed_words(&image)
            .into_iter()
            .partition(|(_, then, now)| *then == 0 && now & 0xfff == 0x67);
        renewed.dedup_by_key(|(at, ..)| *at / 4096);
        assert!(renewed.len() <= 1 && links.len() < 512, "round {round}: {renewed:x?} {links:x?}");
        assert_eq!(copy.tell(LOOK), expected.1, "round {round}");
        copy = copy.reset(&image, &original);
    }
}

#[test]
fn programs_that_end_or_are_killed_are_put_back_too() {
    if !can_run("programs_that_end_or_are_killed_are_put_back_too") {
        return;
    }
    let image = image();
    let original = image.image(MEMORY);
    let expected = Copy::of(&image).tell(LOOK);
    let mut copy = Copy::of(&image);
    for order in ["os._exit(3)", "os.kill(os.getpid(), 9)", "ctypes.string_at(0)", "while True: pass"] {
        copy.feed.write_all(order.as_bytes()).expect("the order");
        if !order.starts_with("while") {
            let status = copy.guest.wait().expect("it ends");
            assert!(
                matches!(status, ExitStatus::Code(3) | ExitStatus::Signal(9 | 11)),
                "{order}: {status:?}"
            );
        }
        copy = copy.reset(&image, &original);
        assert_eq!(copy.tell(LOOK), expected, "after {order}");
    }
}

#[test]
fn neither_memory_nor_threads_nor_descriptors_pile_up() {
    if !can_run("neither_memory_nor_threads_nor_descriptors_pile_up") {
        return;
    }
    let image = image();
    let original = image.image(MEMORY);
    let mut copy = Copy::of(&image);
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).expect("/proc").count();
    let mut after_some = (0, 0);
    for round in 0..60 {
        // Threads that fill all vCPUs.
        copy.tell("[threading.Thread(target=sum, args=(range(1000),)).start() for _ in range(30)]");
        copy = copy.reset(&image, &original);
        if round == 20 {
            after_some = (count("task"), count("fd"));
        }
    }
    // Others of this process' tests may come and go, and a thread of before may not have ended yet.
    let (tasks, descriptors) = (count("task"), count("fd"));
    assert!(
        tasks < after_some.0 + 40 && descriptors < after_some.1 + 40,
        "{after_some:?} {tasks} {descriptors}"
    );
}
