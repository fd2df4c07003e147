//! What stays: over fetches, over restarts, and what goes when room is needed.
use super::{server::*, *};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Answers 304 to whoever knows the version.
fn versioned(header: &'static str, question: &'static str) -> impl Fn(&str) -> Vec<Part> {
    move |request| {
        if request.to_lowercase().contains(question) {
            answer("304 Not Modified", "", b"")
        } else {
            answer("200 OK", header, HELLO)
        }
    }
}

#[tokio::test]
async fn a_restart_costs_no_download() {
    for (header, question) in [
        ("ETag: \"v1\"\r\n", "if-none-match: \"v1\""),
        (
            "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nDate: Mon, 01 Jan 2024 00:00:09 GMT\r\n",
            "if-modified-since: mon, 01 jan 2024 00:00:00 gmt",
        ),
    ] {
        let server = Server::start(versioned(header, question)).await;
        let (store, folder) = store(Limits::default());
        let first = store.fetch(&server.url("/f.py")).await.unwrap();
        let (digest, entry) = (first.digest.clone(), first.entry.clone());
        drop((first, store));
        let store = CodeStore::open(folder.path(), Limits::default()).unwrap();
        let again = store.fetch(&server.url("/f.py")).await.unwrap();
        assert_eq!((again.digest, again.entry), (digest, entry));
        assert!(server.requests()[1].to_lowercase().contains(question));
    }
}

#[tokio::test]
async fn a_time_of_the_answers_own_second_is_no_version() {
    let header = "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n";
    let server = Server::start(move |_| answer("200 OK", header, HELLO)).await;
    let (store, _folder) = store(Limits::default());
    for _ in 0..2 {
        store.fetch(&server.url("/f.py")).await.unwrap();
    }
    assert!(!server.requests()[1].to_lowercase().contains("if-modified-since"));
}

#[tokio::test]
async fn known_bytes_are_not_unpacked_again() {
    let archive = zip(&[("main.py", HELLO)]);
    let server = Server::start(move |_| ok(&archive)).await;
    let (store, _folder) = store(Limits::default());
    let first = store.fetch(&server.url("/a.zip")).await.unwrap();
    use std::os::unix::fs::MetadataExt;
    let inode = |code: &Code| fs::metadata(code.root.join("main.py")).unwrap().ino();
    let before = inode(&first);
    for path in ["/a.zip", "/b.zip"] {
        let again = store.fetch(&server.url(path)).await.unwrap();
        assert_eq!((inode(&again), &again.root), (before, &first.root));
    }
}

#[tokio::test]
async fn changed_code_is_fetched_and_the_old_stays_while_used() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let version = count.fetch_add(1, Ordering::Relaxed);
        answer("200 OK", &format!("ETag: \"{version}\"\r\n"), format!("x = {version}").as_bytes())
    })
    .await;
    let (store, _folder) = store(Limits { cache_bytes: 0, ..Limits::default() });
    let old = store.fetch(&server.url("/f.py")).await.unwrap();
    let new = store.fetch(&server.url("/f.py")).await.unwrap();
    assert_eq!(fs::read(old.entry.unwrap()).unwrap(), b"x = 0");
    assert_eq!(fs::read(new.entry.unwrap()).unwrap(), b"x = 1");
    // Now nobody uses either: the third replaces both.
    let gone = [old.root, new.root];
    drop((old._lease, new._lease));
    store.fetch(&server.url("/f.py")).await.unwrap();
    assert!(!gone.iter().any(|root| root.exists()));
}

#[tokio::test]
async fn callers_at_one_time_share_a_download() {
    let go = Arc::new(Notify::new());
    let signal = go.clone();
    let server =
        Server::start(move |_| [vec![Part::Wait(signal.clone())], ok(HELLO)].into_iter().flatten().collect())
            .await;
    let (store, _folder) = store(Limits::default());
    let url = server.url("/f.py");
    let first = store.join(Url::parse(&url).unwrap());
    let others: Vec<_> = (0..10).map(|_| store.join(Url::parse(&url).unwrap())).collect();
    // The one who began goes away; the others get the code all the same.
    drop(first);
    go.notify_one();
    for code in futures_util::future::join_all(others).await {
        assert_eq!(fs::read(code.unwrap().entry.unwrap()).unwrap(), HELLO);
    }
    assert_eq!(server.requests().len(), 1);
    go.notify_one();
    store.fetch(&url).await.unwrap();
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_shared_failure_is_not_kept() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        if count.fetch_add(1, Ordering::Relaxed) == 0 {
            answer("503 Service Unavailable", "", b"")
        } else {
            ok(HELLO)
        }
    })
    .await;
    let (store, _folder) = store(Limits::default());
    store.fetch(&server.url("/f.py")).await.unwrap_err();
    store.fetch(&server.url("/f.py")).await.unwrap();
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_what_is_used_stays() {
    let server = Server::start(|request| {
        let name = request.split(['/', '.']).nth(1).unwrap_or_default();
        answer("200 OK", &format!("ETag: \"{name}\"\r\n"), format!("{name:#<40}").as_bytes())
    })
    .await;
    let (store, folder) = store(Limits { cache_bytes: 100, ..Limits::default() });
    let fetch = async |name: &str| store.fetch(&server.url(&format!("/{name}.py"))).await.unwrap();
    let held = fetch("a").await;
    let b = fetch("b").await.root;
    let c = fetch("c").await.root;
    assert_eq!((held.root.exists(), b.exists(), c.exists()), (true, false, true));
    // Nothing is left but what counts, and what is gone can be fetched again.
    store.settled().await;
    assert_eq!((digests(folder.path()), partial(folder.path()).len()), (2, 0));
    let (root, clone) = (held.root.clone(), held.clone());
    drop(held);
    let b = fetch("b").await;
    assert!(b.root.exists() && root.exists() && !c.exists());
    drop(clone);
    fetch("c").await;
    assert!(!root.exists());
}

#[tokio::test]
async fn one_app_dir_has_one_store() {
    let (store, folder) = store(Limits::default());
    let error = CodeStore::open(folder.path(), Limits::default()).err().unwrap().to_string();
    assert!(error.contains(&format!("in use by another Hydra (process {})", std::process::id())), "{error}");
    drop(store);
    CodeStore::open(folder.path(), Limits::default()).unwrap();
}

#[test]
fn folders_that_others_control_are_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let open = || CodeStore::open(folder.path(), Limits::default()).err();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(open(), Some(StoreError::Unsafe { .. })));
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), folder.path().join("code")).unwrap();
    assert!(matches!(open(), Some(StoreError::Unsafe { .. })));
}
