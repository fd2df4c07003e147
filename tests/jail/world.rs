//! A code store with two functions, an agent that does what it is told, and jails for it.

use hydra::jail::{Jail, Jailed, Layer, Limits, probe, use_init_program};
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

pub struct World {
    pub dir: TempDir,
}

pub struct Agent {
    pub jailed: Jailed,
    pub channel: BufReader<UnixStream>,
}

impl World {
    pub fn new() -> World {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("exists").join(name)
    }

    pub fn jail(&self) -> Jail {
        let mut jail = Jail::new("/usr/bin/python3", self.path("store"));
        jail.arguments = vec!["-u".into(), self.path("agent/agent.py").into(), "{fd}".into()];
        jail.readable = vec![self.path("agent")];
        jail.tmp_mib = 8;
        jail
    }

    pub async fn start(&self, jail: &Jail) -> Agent {
        let mut jailed = jail.spawn(self.dir.path()).await.expect("the jail starts");
        let channel = UnixStream::from(jailed.take_channel());
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
    pub fn run(&mut self, program: &str) -> String {
        let stream = self.channel.get_mut();
        stream.write_all(format!("{}\n{program}", program.len()).as_bytes()).expect("sent");
        let mut answer = Vec::new();
        self.channel.read_until(0, &mut answer).expect("answered");
        assert_eq!(answer.pop(), Some(0), "the agent ended: {}", self.errors());
        String::from_utf8(answer).expect("text").trim_end().to_owned()
    }

    pub async fn assign(
        &mut self,
        world: &World,
        name: &str,
    ) -> Result<hydra::jail::Assigned, hydra::jail::JailError> {
        self.jailed.assign(&world.path("store").join(name), &Limits { memory_mib: 64 }).await
    }

    pub fn errors(&mut self) -> String {
        self.jailed.kill();
        let mut text = String::new();
        let read = std::fs::File::from(self.jailed.take_output().1).read_to_string(&mut text);
        format!("{text} ({read:?})")
    }
}

/// Whether the host gives all `layers`; says so if not.
pub fn has(layers: &[Layer]) -> bool {
    use_init_program(Path::new(env!("CARGO_BIN_EXE_hydra")));
    layers.iter().all(|layer| match probe().missing(*layer) {
        None => true,
        Some(reason) => {
            eprintln!("SKIPPED: no {layer:?} here: {reason}");
            false
        }
    })
}

pub fn exists(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
