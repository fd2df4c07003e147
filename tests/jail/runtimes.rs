//! What real language runtimes must be able to do in a jail, and how long a jail takes.

use crate::world::World;
use crate::world::has;
use crate::world::until;
use hydra::jail::Jail;
use hydra::jail::Layer;
use hydra::jail::Limits;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

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
        let mut channel = BufReader::new(UnixStream::from(jailed.take_channel()));
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
