//! A Hydra that is killed while it saves leaves the old snapshot, the new one or none; one without room leaves the old.
use super::*;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};

/// Says to [`works_here`] that it is the child, and what to do: `FOLDER STEP`.
const CHILD: &str = "HYDRA_SNAPSHOT_TEST_CHILD";

/// The child of the tests below: saves a snapshot marked `n`, and is killed at a step. By itself it does nothing.
#[test]
fn works_here() {
    let Ok(work) = std::env::var(CHILD) else { return };
    let (folder, last) = work.split_once(' ').unwrap();
    let last = last.to_owned();
    let store = Store::observed(Path::new(folder), cpu(), move |step| {
        if format!("{step:?}") == last {
            nix::sys::signal::raise(nix::sys::signal::SIGKILL).unwrap();
        }
    });
    let store = store.unwrap();
    let parent = store.find(&expected(1)).unwrap();
    let saved = draft_over(&store, parent.as_ref(), &expected(7), b'n').and_then(Draft::commit);
    if let Err(error) = saved {
        println!("error: {error}; left over: {}", left_over(Path::new(folder)));
    }
}

fn child(folder: &Path, last: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "snapshot::tests::crash::works_here", "--nocapture"])
        .env(CHILD, format!("{} {last}", folder.display()))
        .stdout(Stdio::piped());
    command
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(nix::libc::SIGKILL)
}

#[test]
fn killed_at_every_step() {
    for (old, has_parent) in [(None, false), (Some(b'o'), false), (Some(b'o'), true)] {
        for step in Step::ALL {
            let folder = tempfile::tempdir().unwrap();
            if has_parent {
                save(&store(folder.path()), &expected(1), b'p');
            }
            if let Some(mark) = old {
                save(&store(folder.path()), &expected(7), mark);
            }
            let output = child(folder.path(), &format!("{step:?}")).output().unwrap();
            assert!(was_killed(output.status), "{step:?} was not reached");
            let placed = matches!(step, Step::Placed | Step::Durable | Step::Done);
            let is_clean = step == Step::Done || (placed && old.is_none());
            assert_eq!(left_over(folder.path()) == 0, is_clean, "{step:?}");
            // The next one finds what there should be, clears up, and saves.
            let store = store(folder.path());
            assert_eq!(left_over(folder.path()), 0, "{step:?}");
            let found = store.find(&expected(7)).unwrap();
            let should = if placed { Some(b'n') } else { old };
            assert_eq!(found.map(|found| mark(&found)), should, "{step:?}");
            assert_eq!(mark(&save(&store, &expected(7), b'z')), b'z');
        }
    }
}

/// On a disk of a few pages in the child's own mount namespace: too small for the memory, and for the state after it.
#[test]
fn without_room_nothing_is_left() {
    for size in ["size=12k,mode=700", "size=28k,mode=700"] {
        let folder = tempfile::tempdir().unwrap();
        let path = std::ffi::CString::new(folder.path().to_str().unwrap()).unwrap();
        let mut command = child(folder.path(), "none");
        let small_disk = move || {
            use nix::{mount::MsFlags, sched::CloneFlags};
            let none = None::<&str>;
            nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
            nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            nix::mount::mount(none, path.as_c_str(), Some("tmpfs"), MsFlags::empty(), Some(size))?;
            Ok(())
        };
        // SAFETY: the closure makes three system calls, and neither locks nor keeps anything.
        unsafe { command.pre_exec(small_disk) };
        let output = match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                eprintln!("without_room_nothing_is_left skipped: a small disk cannot be mounted: {error}");
                return;
            }
            output => output.unwrap(),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let message = format!(
            "error: the snapshot with svmid 7 is not saved: there is no room left for it below `{}`; left over: 0",
            folder.path().display()
        );
        assert!(output.status.success() && text.contains(&message), "{size}: {text}");
    }
}
