//! What a function can reach, tried by functions over HTTP. Every way out of the jail is tried in tests/jail.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use hydra::jail::{Layer, probe, use_init_program};
use hydra_harness::Registration;
use serde_json::json;

use crate::world::{Cell, World, expect, json, skip, until};

async fn confined(world: &World) -> Vec<Cell> {
    world.cells().await.into_iter().filter(|cell| cell.kind != "isolate").collect()
}

/// Whether this host composes a root for each jail.
fn has_own_root() -> bool {
    use_init_program(Path::new(env!("CARGO_BIN_EXE_hydra")));
    match probe().missing(Layer::Mount) {
        None => true,
        Some(reason) => {
            skip("what functions see of files", reason);
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_reads_neither_secrets_nor_other_functions() {
    if !has_own_root() {
        return;
    }
    let world = World::start(&[]).await;
    for cell in confined(&world).await {
        let name = world.register(&cell, "nosy", |_| {}).await;
        let own = world.result(&name, &json!({"do": "where"})).await;
        // Other code, on the same host.
        let mut other = world.registration("neighbour", &cell.language, cell.kind);
        other.url = world.code.url("tree-python.zip");
        expect(&world.client.register(&other).await.unwrap(), 200);

        let mut forbidden =
            vec![PathBuf::from("/etc/shadow"), PathBuf::from("/root/.profile"), "/proc/1/environ".into()];
        let code = files_below(world.server.app_dir());
        assert!(code.iter().any(|path| path.ends_with("main.py")), "{code:?}");
        forbidden.extend(code);
        for path in &forbidden {
            let reply = world.call(&name, &json!({"do": "read", "path": path})).await;
            expect(&reply, 500);
            assert_eq!(json(&reply.body)["kind"], "raised", "{path:?}");
        }
        for path in [world.server.app_dir(), Path::new("/root"), Path::new("/home")] {
            let reply = world.call(&name, &json!({"do": "list", "path": path})).await;
            assert!(reply.status == 500 || reply.body.contains("[]"), "{path:?}: {}", reply.body);
        }
        // Its own code it sees, and nothing beside it.
        let listed = world.result(&name, &json!({"do": "list", "path": own})).await;
        assert_eq!(json(&listed), json!([cell.language.kit]), "{cell:?}");
        for name in [name.as_str(), "neighbour"] {
            world.deregister(name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_reads_only_what_everybody_may_read() {
    if !has_own_root() {
        return;
    }
    if let Some(reason) = probe().missing(Layer::Identity) {
        return skip("files that are Hydra's alone", reason);
    }
    let world = World::start(&[]).await;
    for cell in confined(&world).await {
        let name = world.register(&cell, "curious", |_| {}).await;
        let own = world.result(&name, &json!({"do": "where"})).await;
        let path = format!("{own}/{}", cell.language.kit);
        let read = json!({"do": "read", "path": path});
        let files = files_below(world.server.app_dir());
        let file = files.iter().find(|file| file.ends_with(cell.language.kit)).expect("its code");
        for (mode, readable) in [(0o444, true), (0o400, false)] {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
            let reply = world.call(&name, &read).await;
            // A Java archive is no text.
            assert!(
                reply.status == if readable { 200 } else { 500 } || cell.language.kit == "Kit.jar",
                "{cell:?} {mode:o}: {}",
                reply.body
            );
        }
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o444)).unwrap();
        world.deregister(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_has_a_part_of_the_descriptors_and_of_the_sockets() {
    let world = World::start(&[]).await;
    let name = format!("hydra-e2e-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    for cell in confined(&world).await {
        if cell.language.kit != "kit.py" {
            continue;
        }
        let greedy = world.register(&cell, "greedy", |_| {}).await;
        for _ in 0..2 {
            let count = world.result(&greedy, &json!({"do": "descriptors"})).await;
            let count = json(&count).as_u64().unwrap();
            assert!((50..=4096).contains(&count), "{cell:?} opened {count} files");
        }
        // In a jail that depends on the kernel.
        if cell.kind == "snapshot" {
            let reply = world.call(&greedy, &json!({"do": "connect", "name": name})).await;
            expect(&reply, 500);
            assert_eq!(json(&reply.body)["kind"], "raised", "{}", reply.body);
        }
        world.deregister(&greedy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_writes_to_its_own_folder_only() {
    if !has_own_root() {
        return;
    }
    let world = World::start(&[]).await;
    for cell in confined(&world).await {
        let name = world.register(&cell, "writes", |_| {}).await;
        let own = world.result(&name, &json!({"do": "where"})).await;
        let app_dir = world.server.app_dir().to_str().unwrap();
        for folder in ["/", "/etc", "/usr/lib", "/root", "/var/tmp", "/proc/self", app_dir, own.as_str()] {
            let path = format!("{folder}/hydra-escape-{}", std::process::id());
            let reply = world.call(&name, &json!({"do": "write", "path": path, "text": "x"})).await;
            assert_eq!(reply.status, 500, "{cell:?} wrote {path}");
            assert!(!Path::new(&path).exists(), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_does_not_get_out_by_asking_hydra() {
    if hydra::jail::sandbox_user().is_none() {
        skip("that functions cannot use Hydra", "they have no users of their own here, as Hydra is not root");
        return;
    }
    let world = World::start(&[]).await;
    for cell in confined(&world).await {
        let name = world.register(&cell, "asks", |_| {}).await;
        let code = world.code.url("kit.py");
        let register = format!("{}/register?name=escaped&url={code}&language=python", world.server.base());
        for (url, status) in [(code.as_str(), "200"), (&register, "403")] {
            let ask = json!({"do": "ask", "url": url});
            assert_eq!(world.result(&name, &ask).await, status, "{cell:?} {url}");
            assert_eq!(crate::world::result(&world.call_fresh(&name, &ask).await), status, "{cell:?} {url}");
        }
        let functions = world.client.get("/functions").await.expect("a list").body;
        assert!(!functions.contains("escaped"), "{cell:?}: {functions}");
        world.deregister(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sandbox_has_a_folder_that_goes_with_it() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let names = [world.register(&cell, "one", |_| {}).await, world.register(&cell, "two", |_| {}).await];
        for name in &names {
            let folder = folder(&world, name).await;
            world.checkpointed(name).await;
            let path = format!("{folder}/note");
            let write = json!({"do": "write", "path": path, "text": name});
            assert_eq!(world.result(name, &write).await, "written", "{cell:?}");
        }
        // One does not see the other's, with the same code and maybe the same path.
        for name in &names {
            let path = format!("{}/note", folder(&world, name).await);
            assert_eq!(world.result(name, &json!({"do": "read", "path": path})).await, *name, "{cell:?}");
        }
        // A fresh sandbox begins without what others left. (It is not empty where Hydra itself lies below /tmp: the agents'
        // folder has the same path in a jail.)
        let echo = world.call_fresh(&names[0], &json!({})).await;
        let fresh = json(&crate::world::result(&echo))["tmpDir"].as_str().unwrap().to_owned();
        let listed = world.call_fresh(&names[0], &json!({"do": "list", "path": fresh})).await;
        let fresh = listed.status == 500 || !crate::world::result(&listed).contains("note");
        assert!(fresh, "{cell:?}: {}", listed.body);
        for name in &names {
            world.deregister(name).await;
        }
    }
    let run = world.server.app_dir().join("run");
    until("the temporary folders to be removed", async || {
        !files_below(&run).iter().any(|path| path.ends_with("note"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_can_be_kept_in_the_folder() {
    let world = World::start(&[]).await;
    for cell in world.cells().await.into_iter().filter(|cell| cell.language.name == "python") {
        let notes = |registration: &mut Registration| {
            registration.url = world.code.url("notes.py");
            registration.entry_point = Some("notes.main".into());
        };
        let name = world.register(&cell, "notes", notes).await;
        assert_eq!(world.result(&name, &json!({"text": "one"})).await, "[1,1]", "{cell:?}");
        // One that is being checkpointed would be stood in for by a copy.
        world.checkpointed(&name).await;
        assert_eq!(world.result(&name, &json!({"text": "one"})).await, "[2,2]", "{cell:?}");
        world.deregister(&name).await;
    }
}

async fn folder(world: &World, name: &str) -> String {
    let echo = json(&world.result(name, &json!({})).await);
    echo["tmpDir"].as_str().expect("a tmpDir").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_see_nothing_of_hydras_environment() {
    let mut options = crate::world::options(&[]);
    options.env = vec![("HYDRA_TEST_SECRET".into(), "x".into()), ("lambda_timestamp".into(), "1".into())];
    let world = World::with(options).await;
    for cell in world.cells().await {
        let name = world.register(&cell, "environment", |_| {}).await;
        let names = json(&world.result(&name, &json!({"do": "environment"})).await);
        let names: Vec<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let own = ["HYDRA", "lambda_", "app_dir", "CARGO", "NODE_", "LD_"];
        let leaked: Vec<_> =
            names.iter().filter(|name| own.iter().any(|own| name.starts_with(own))).collect();
        assert!(leaked.is_empty(), "{cell:?}: {leaked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_with_the_same_code_share_no_state() {
    let world = World::start(&[]).await;
    for cell in world.cells().await {
        let names =
            [world.register(&cell, "first", |_| {}).await, world.register(&cell, "second", |_| {}).await];
        for expected in ["1", "2", "3"] {
            for name in &names {
                assert_eq!(world.result(name, &json!({"do": "count"})).await, expected, "{cell:?}");
                // One that is being checkpointed would be stood in for by a copy.
                world.checkpointed(name).await;
            }
        }
    }
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() && !path.is_symlink() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files
}
