//! Nothing of a jail outlives it, or Hydra.

use crate::world::World;
use crate::world::exists;
use crate::world::until;
use hydra::jail::Layer;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

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
    if !alone("many_jails_leave_no_descriptors") {
        return;
    }
    let count = || std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
    let settled = count();
    for _ in 0..100 {
        let jailed = world.jail().spawn(world.dir.path()).await.expect("the jail starts");
        drop(jailed);
    }
    until("the end of all descriptors", || count() <= settled).await;
    until("the end of all children", || children().is_empty()).await;
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_leaves_nothing() {
    let world = World::new();
    let settled = Instant::now();
    drop(world.jail().spawn(world.dir.path()).await.expect("the jail starts"));
    let whole = settled.elapsed();
    if !alone("a_start_that_nobody_waits_for_any_more_leaves_nothing") {
        return;
    }
    // At any time.
    for part in 0..100 {
        let _ = tokio::time::timeout(whole * part / 100, world.jail().spawn(world.dir.path())).await;
    }
    until("the end of all children", || children().is_empty()).await;
    until("the end of all cgroups", || cgroups() == 0).await;
}

/// Whether this test is alone in its process; else runs it so.
fn alone(test: &str) -> bool {
    let is_alone = std::env::var_os("ALONE").is_some();
    if !is_alone {
        let own = std::env::current_exe().expect("a path");
        let test = format!("lifetime::{test}");
        let status = std::process::Command::new(own).args(["--exact", &test]).env("ALONE", "1").status();
        assert!(status.expect("it runs").success());
    }
    is_alone
}

/// How many jails of this process have a cgroup, where the host gives jails one.
fn cgroups() -> usize {
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("its cgroups");
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // Hydra makes room for them by moving into one beside them.
    let parent = Path::new("/sys/fs/cgroup").join(own.trim_end_matches("hydra"));
    let prefix = format!("jail-{}-", std::process::id());
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).count()
}

/// The children of this process, those that nobody has waited for among them.
fn children() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
    let of_each = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")));
    of_each
        .flatten()
        .flat_map(|children| children.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
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
        .args(["--exact", "lifetime::nothing_outlives_hydra", "--nocapture"])
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
