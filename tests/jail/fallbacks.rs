//! Jails where layers are missing, and jails that cannot be.

use crate::world::World;
use crate::world::has;
use crate::world::until;
use hydra::jail::Layer;
use hydra::jail::Limits;
use hydra::jail::Network;

#[tokio::test]
async fn works_without_namespaces() {
    let world = World::new();
    let mut jail = world.jail();
    jail.network = Network::Host;
    jail.without = vec![Layer::User, Layer::Mount, Layer::Pid, Layer::Proc, Layer::Ipc, Layer::Hostname];
    let mut agent = world.start(&jail).await;
    let assigned = agent.assign(&world, "one").await.expect("assigned");
    assert_eq!(assigned.code, world.path("store/one"));
    assert_eq!(agent.run(&format!("print(open({:?}).read())", assigned.code.join("main.py"))), "ONE");
    agent.run(&format!("open({:?}, 'w').write('x')", assigned.tmp.join("file")));
    assert!(assigned.tmp.join("file").exists());
    if has(&[Layer::Landlock]) {
        assert_eq!(agent.run(&format!("open({:?})", world.path("secret"))), "PermissionError 13");
        assert_eq!(agent.run("open('/tmp/hydra-jail-escape', 'w')"), "PermissionError 13");
    }
    drop(agent);
    until("the end of its directory", || !assigned.tmp.exists()).await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_a_reason() {
    let world = World::new();
    let mut jail = world.jail();
    jail.program = "/usr/bin/no-such-program".into();
    let error = jail.spawn(world.dir.path()).await.expect_err("there is no such program").to_string();
    assert!(error.contains("/usr/bin/no-such-program") && error.contains("No such file"), "{error}");
    let mut jail = world.jail();
    jail.readable = vec!["/".into()];
    if has(&[Layer::Mount]) {
        let error = jail.spawn(world.dir.path()).await.expect_err("the whole root").to_string();
        assert!(error.contains("readable path /"), "{error}");
    }
    let mut agent = world.start(&world.jail()).await;
    for outside in
        [world.path("agent"), world.path("store"), world.path("store/one/../two"), world.path("store/none")]
    {
        let error =
            agent.jailed.assign(&outside, &Limits { memory_mib: 64 }).await.expect_err("outside").to_string();
        assert!(error.contains("cannot show the code"), "{error}");
    }
    agent.assign(&world, "one").await.expect("a refusal costs nothing");
}

#[tokio::test]
async fn any_one_layer_may_be_missing() {
    let world = World::new();
    let layers = [
        Layer::User,
        Layer::Identity,
        Layer::Mount,
        Layer::Pid,
        Layer::Proc,
        Layer::Ipc,
        Layer::Hostname,
        Layer::Seccomp,
        Layer::Landlock,
        Layer::Privileges,
        Layer::Processes,
        Layer::Cgroup,
    ];
    for layer in layers {
        let mut jail = world.jail();
        jail.network = Network::Host;
        jail.without = vec![layer];
        let ordinary = !nix::unistd::geteuid().is_root();
        if ordinary && matches!(layer, Layer::User | Layer::Privileges) {
            eprintln!("SKIPPED: without {layer:?} an ordinary user has none of the others either");
            continue;
        }
        if layer == Layer::Privileges {
            // Without no_new_privs neither of these can be installed.
            jail.without.extend([Layer::Seccomp, Layer::Landlock]);
        }
        let mut agent = world.start(&jail).await;
        let assigned = agent.assign(&world, "two").await.unwrap_or_else(|e| panic!("without {layer:?}: {e}"));
        let read = format!("print(open({:?}).read(), os.getuid() != 0)", assigned.code.join("main.py"));
        let expected =
            if layer == Layer::Identity && !has(&[Layer::User]) { "TWO False" } else { "TWO True" };
        assert_eq!(agent.run(&read), expected, "without {layer:?}");
    }
}
