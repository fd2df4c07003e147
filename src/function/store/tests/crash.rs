//! Whatever a killed Hydra leaves behind, the next one works.
use super::{server::*, *};
use std::process::{Child, Command, Stdio};

/// Says to [`dies_here`] that it is the child, and where to work: `APP_DIR URL`.
const CHILD: &str = "HYDRA_STORE_TEST_CHILD";

/// The child of the tests below: fetches, and is killed meanwhile. By itself it does nothing.
#[tokio::test]
async fn dies_here() {
    let Ok(work) = std::env::var(CHILD) else { return };
    let (folder, url) = work.split_once(' ').unwrap();
    let store = CodeStore::open(Path::new(folder), Limits::default()).unwrap();
    let _ = store.fetch(url).await;
}

fn child(folder: &Path, url: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "function::store::tests::crash::dies_here"])
        .env(CHILD, format!("{} {url}", folder.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for `reached`, kills the child there and then, and sees to it that it was in the middle.
async fn kill_when(mut child: Child, reached: impl Fn() -> bool) {
    while !reached() {
        assert!(child.try_wait().unwrap().is_none(), "the child ended before it was to be killed");
        tokio::task::yield_now().await;
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the child was not killed in the middle");
}

/// The files and folders below a folder, as far as they can be seen.
fn count(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|entry| 1 + count(&entry.path())).sum()
}

async fn works_again(folder: &Path, url: &str, files: usize) {
    let store = CodeStore::open(folder, Limits::default()).unwrap();
    assert_eq!((digests(folder), partial(folder).len()), (0, 0), "something half-written counts");
    let code = store.fetch(url).await.unwrap();
    assert_eq!(count(&code.root), files);
}

#[tokio::test]
async fn killed_while_downloading() {
    let folder = tempfile::tempdir().unwrap();
    let first = std::sync::atomic::AtomicBool::new(true);
    let server = Server::start(move |_| {
        if first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec();
            vec![Part::Bytes(head), Part::Bytes(vec![b'#'; 600_000]), Part::Hang]
        } else {
            ok(HELLO)
        }
    })
    .await;
    let url = server.url("/f.py");
    let written =
        || partial(folder.path()).iter().any(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0));
    let child = child(folder.path(), &url);
    kill_when(child, || folder.path().join("code/partial").is_dir() && written()).await;
    assert_eq!(partial(folder.path()).len(), 1);
    works_again(folder.path(), &url, 1).await;
}

#[tokio::test]
async fn killed_while_unpacking() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..5_000).map(|number| format!("f{number}.py")).collect();
    let archive = zip(&names.iter().map(|name| (name.as_str(), &b"x"[..])).collect::<Vec<_>>());
    let server = Server::start(move |_| ok(&archive)).await;
    let url = server.url("/big.zip");
    let child = child(folder.path(), &url);
    kill_when(child, || count(&folder.path().join("code/partial")) > 10).await;
    assert!(count(&folder.path().join("code/partial")) < 5_000);
    works_again(folder.path(), &url, 5_000).await;
}

#[tokio::test]
async fn every_state_between_the_steps_is_survived() {
    let server = Server::start(|_| answer("200 OK", "ETag: \"1\"\r\n", HELLO)).await;
    let url = server.url("/f.py");
    let (store, folder) = store(Limits::default());
    let code = store.fetch(&url).await.unwrap();
    let (digest, root) = (code.digest.clone(), code.root.clone());
    drop((code, store));
    let (at, variant) = (folder.path().join("code"), root.parent().unwrap());
    let home = variant.parent().unwrap();
    let reopened = async |what: &str| {
        let store = CodeStore::open(folder.path(), Limits::default()).unwrap();
        let code = store.fetch(&url).await.unwrap();
        assert_eq!(
            (&code.digest, fs::read(code.entry.unwrap()).unwrap()),
            (&digest, HELLO.to_vec()),
            "{what}"
        );
        store.settled().await;
        assert_eq!((digests(folder.path()), partial(folder.path()).len()), (1, 0), "{what}");
    };
    // In its place, not in the index.
    fs::remove_file(at.join("index.json")).unwrap();
    reopened("no index").await;
    fs::write(at.join("index.json"), "{\"version\":1,").unwrap();
    reopened("half an index").await;
    // In the index, not in its place: someone removed it, or a part of it.
    crate::folder::remove_tree(home).unwrap();
    reopened("no code").await;
    crate::folder::remove_tree(&root).unwrap();
    reopened("a variant without its code").await;
    fs::remove_file(variant.join("bytes")).unwrap();
    reopened("a variant without its size").await;
    fs::write(variant.join("bytes"), "").unwrap();
    reopened("a size that did not get to the disk").await;
    crate::folder::remove_tree(variant).unwrap();
    reopened("a digest without a variant").await;
    // Moved out of its place, not yet deleted.
    fs::create_dir(at.join("partial/grave")).unwrap();
    fs::rename(home, at.join("partial/grave/code")).unwrap();
    reopened("half removed").await;
    // Complete, not yet in its place.
    fs::create_dir(at.join("partial/staged")).unwrap();
    fs::rename(variant, at.join("partial/staged/x")).unwrap();
    reopened("not yet moved").await;
}
