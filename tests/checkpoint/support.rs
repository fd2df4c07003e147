//! Starting, stopping and restoring programs.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use hydra::linux::identity::Identity;
use hydra::linux::net::Policy;
use hydra::linux::{
    Checkpoint, Config, ExitStatus, Guest, Inherited, Mount, RestoreError, Rights, State, Surroundings,
};
use hydra::vmm;

/// Bytes of RAM of every guest.
pub const MEMORY: u64 = 512 << 20;

/// Whether microVMs can run; if not, says so. `HYDRA_REQUIRE_KVM` turns that into a failure.
pub fn can_run(test: &str) -> bool {
    match vmm::Hypervisor::get() {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("HYDRA_REQUIRE_KVM").is_none(), "{error}");
            eprintln!("{test} skipped: {error}");
            false
        }
    }
}

/// What a program is given to read, and where it writes.
pub struct Streams {
    pub input: OwnedFd,
    pub output: File,
}

impl Streams {
    /// Input that is over at once.
    pub fn new() -> Streams {
        let output = tempfile::tempfile().expect("a file");
        Streams { input: File::open("/dev/null").expect("/dev/null").into(), output }
    }

    pub fn descriptors(&self) -> Vec<Inherited> {
        let output = || OwnedFd::from(self.output.try_clone().expect("a descriptor"));
        let input = self.input.try_clone().expect("a descriptor");
        let write = || Inherited::Host(output(), libc::O_WRONLY as u32);
        vec![Inherited::Host(input, 0), write(), write()]
    }

    pub fn text(&self) -> String {
        // Not by the position, which the program writes at.
        let mut bytes = vec![0; self.output.metadata().expect("its size").len() as usize];
        self.output.read_exact_at(&mut bytes, 0).expect("the output");
        String::from_utf8(bytes).expect("text")
    }

    /// Streams whose output goes on after what is there already.
    pub fn fork(&self) -> Streams {
        let mut output = tempfile::tempfile().expect("a file");
        output.write_all(self.text().as_bytes()).expect("the output so far");
        Streams { input: self.input.try_clone().expect("a descriptor"), output }
    }
}

pub fn mounts() -> Vec<Mount> {
    vec![Mount { source: "/".into(), target: "/".into(), read_only: false }]
}

pub fn start(command: &[&str], streams: &Streams) -> Guest {
    let config = Config {
        memory: MEMORY,
        mounts: mounts(),
        program: command[0].into(),
        arguments: command.iter().map(|a| a.as_bytes().to_vec()).collect(),
        environment: vec![b"PATH=/usr/bin:/bin".to_vec(), b"LANG=C.UTF-8".to_vec(), b"HOME=/tmp".to_vec()],
        working_directory: "/tmp".into(),
        descriptors: streams.descriptors(),
        umask: 0o022,
        identity: Identity::of_this_process(),
        network: Policy::Open,
        rights: Rights::Own,
        trace: false,
        counters: Default::default(),
    };
    Guest::start(config).expect("the program starts")
}

/// A checkpoint as it lies on disk: the state in its serial form, and a sparse file with the RAM.
pub struct Image {
    pub state: Vec<u8>,
    pub memory: File,
}

impl Image {
    pub fn of(checkpoint: &Checkpoint<'_>) -> Image {
        let memory = tempfile::tempfile().expect("a file");
        memory.set_len(checkpoint.memory().size()).expect("its size");
        for run in checkpoint.runs() {
            let mut bytes = vec![0; (run.end - run.start) as usize];
            checkpoint
                .memory()
                .slice(run.start, bytes.len())
                .expect("a range of the RAM")
                .copy_to(&mut bytes[..]);
            memory.write_all_at(&bytes, run.start).expect("the image");
        }
        Image { state: postcard::to_stdvec(checkpoint.state()).expect("the state"), memory }
    }

    pub fn restore(&self, streams: &Streams) -> Guest {
        let state: State = postcard::from_bytes(&self.state).expect("the state");
        assert_eq!(postcard::to_stdvec(&state).expect("the state"), self.state);
        self.restore_as(state, streams).expect("the program is restored")
    }

    pub fn restore_as(&self, state: State, streams: &Streams) -> Result<Guest, RestoreError> {
        let image = self.image(MEMORY);
        let surroundings = Surroundings {
            mounts: mounts(),
            descriptors: streams.descriptors(),
            network: Policy::Open,
            rights: Rights::Own,
            trace: false,
            counters: Default::default(),
        };
        Guest::restore(state, &image, None, surroundings)
    }

    pub fn image(&self, bytes: u64) -> vmm::Image {
        let file = self.memory.try_clone().expect("a descriptor");
        vmm::Image::new(file, bytes).expect("an image")
    }
}

/// Compiles a program of `tests/guests` once.
pub fn compiled(name: &str) -> PathBuf {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| tempfile::tempdir().expect("a directory"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name);
    let target = dir.path().join(name.trim_end_matches(".c"));
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-w", "-pthread", "-o"]).arg(&target).arg(source);
    assert!(gcc.status().expect("gcc is installed").success());
    target
}

pub fn natively(command: &[&str]) -> (String, ExitStatus) {
    let output = Command::new(command[0])
        .args(&command[1..])
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", "/tmp")])
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .expect("the program runs");
    let status = match output.status.code() {
        Some(code) => ExitStatus::Code(code as u8),
        None => ExitStatus::Signal(output.status.signal().unwrap_or(0) as u8),
    };
    (String::from_utf8_lossy(&output.stdout).into_owned(), status)
}
