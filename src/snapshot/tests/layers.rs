//! Snapshots that build upon another.
use super::*;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

/// A store with the snapshot 1, marked `p`, and 7 upon it, marked `c`.
fn layered(folder: &Path) -> (Store, Arc<Snapshot>, Arc<Snapshot>) {
    let store = store(folder);
    let parent = save(&store, &expected(1), b'p');
    let child = over(&store, &parent, b'c');
    (store, parent, child)
}

fn over(store: &Store, parent: &Arc<Snapshot>, mark: u8) -> Arc<Snapshot> {
    draft_over(store, Some(parent), &expected(7), mark).unwrap().commit().unwrap()
}

/// Why the child is refused when nothing is open; a new one is taken.
fn reason(folder: &Path) -> Reason {
    let store = store(folder);
    let refusal = store.find(&expected(7)).unwrap_err();
    assert_eq!(refusal.svmid, 7);
    // `hydra snapshot show` says the same.
    let verified = store.shelf().verify(7).unwrap_err();
    assert_eq!(verified.to_string(), refusal.to_string());
    let parent = save(&store, &expected(1), b'q');
    drop(over(&store, &parent, b'n'));
    assert_eq!(mark(&store.find(&expected(7)).unwrap().unwrap()), b'n');
    refusal.reason
}

#[test]
fn it_holds_what_differs_and_shows_all() {
    let folder = tempfile::tempdir().unwrap();
    let (store, parent, child) = layered(folder.path());
    assert_eq!((mark(&parent), mark(&child)), (b'p', b'c'));
    let named = child.manifest().parent.clone().unwrap();
    assert_eq!((named.svmid, named.checksum), (1, parent.manifest().memory.checksum));
    assert_eq!(named.pages.to_string(), "1+3 3e8+1 7ff+1");
    assert_eq!(child.manifest().memory.stored, 5 * 4096);
    drop((parent, child, store));
    // After a restart too.
    let store = super::store(folder.path());
    let child = store.find(&expected(7)).unwrap().unwrap();
    assert_eq!(mark(&child), b'c');
    assert_eq!(mark(&store.find(&expected(1)).unwrap().unwrap()), b'p');
    assert!(store.shelf().verify(7).unwrap().is_some());
}

#[test]
fn what_does_not_differ_takes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let parent = save(&store, &expected(1), b'p');
    let memory = parent.image().map().unwrap();
    // One page is another, one is zero now, one was not in use.
    memory.write(2 * 4096, b"another");
    memory.zero(3 * 4096, 4096);
    memory.write(901 * 4096, b"new");
    // A page of the parent's that is not in use any more is zero whatever it holds.
    let runs = || [0..5 * 4096, 900 * 4096..902 * 4096, RAM - 3 * 4096..RAM].into_iter();
    let draft =
        store.stage(&expected(7), Some(&parent)).unwrap().copy(&memory, runs(), vec![1], Instant::now());
    let child = draft.unwrap().commit().unwrap();
    assert_eq!(child.manifest().parent.as_ref().unwrap().pages.to_string(), "2+2 385+1 3e8+1");
    assert_eq!(child.manifest().memory.stored, 2 * 4096);
    assert!(child.memory().metadata().unwrap().blocks() * 512 <= 4 * 4096);
    let shown = child.image().map().unwrap();
    for page in 0..RAM / 4096 {
        let (mut is, mut should) = ([0; 4096], [0; 4096]);
        shown.slice(page * 4096, 4096).unwrap().copy_to(&mut is[..]);
        if runs().any(|run| run.contains(&(page * 4096))) {
            memory.slice(page * 4096, 4096).unwrap().copy_to(&mut should[..]);
        }
        assert_eq!(is, should, "page {page}");
    }
    // What goes on from it is compared with the same parent.
    shown.write(4 * 4096, b"more");
    let draft =
        store.stage(&expected(8), Some(&parent)).unwrap().copy(&shown, runs(), vec![1], Instant::now());
    let next = draft.unwrap().commit().unwrap();
    assert_eq!(next.manifest().parent.as_ref().unwrap().pages.to_string(), "2+3 385+1 3e8+1");
}

#[test]
fn pages_that_lie_scattered_become_few_runs() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let parent = save(&store, &expected(1), b'p');
    let memory = parent.image().map().unwrap();
    for page in (0..100).map(|i| 1 + 3 * i) {
        memory.write(page * 4096 + 5, &[page as u8]);
    }
    let whole = || std::iter::once(0..RAM);
    let draft =
        store.stage(&expected(7), Some(&parent)).unwrap().copy(&memory, whole(), vec![1], Instant::now());
    let child = draft.unwrap().commit().unwrap();
    let runs = child.manifest().parent.as_ref().unwrap().pages.ranges().len();
    assert!((1..=16).contains(&runs), "{runs} runs");
    let shown = child.image().map().unwrap();
    for at in (0..RAM).step_by(8) {
        assert_eq!(shown.load(at), memory.load(at), "at {at:#x}");
    }
}

#[test]
fn without_its_parent_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (store, parent, child) = layered(folder.path());
    assert!(store.remove(1).unwrap());
    // Who has it open keeps both.
    drop(parent);
    assert_eq!(mark(&store.find(&expected(7)).unwrap().unwrap()), b'c');
    drop((child, store));
    let reason = reason(folder.path());
    assert_eq!(reason.to_string(), "the snapshot with svmid 1, which it builds upon, is gone");
}

#[test]
fn with_another_parent_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (store, ..) = layered(folder.path());
    save(&store, &expected(1), b'x');
    drop(store);
    let reason = reason(folder.path());
    assert_eq!(reason.to_string(), "the snapshot with svmid 1, which it builds upon, is another than it was");
}

#[test]
fn with_a_damaged_parent_it_is_refused() {
    for part in Part::ALL {
        let folder = tempfile::tempdir().unwrap();
        drop(layered(folder.path()));
        let path = folder.path().join("1").join(part.file_name());
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"?", 4096).unwrap();
        let reason = reason(folder.path());
        assert!(
            matches!(&reason, Reason::Parent { svmid: 1, reason }
                if matches!(**reason, Reason::Damaged { part: found, .. } if found == part)),
            "{reason}"
        );
    }
}

#[test]
fn what_a_manifest_names_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (store, parent, child) = layered(folder.path());
    let written = child.manifest().clone();
    let named = written.parent.clone().unwrap();
    drop((store, parent, child));
    let refused = |parent: Parent| {
        let manifest = Manifest { parent: Some(parent), ..written.clone() };
        fs::write(folder.path().join("7").join("manifest.json"), manifest.to_text().unwrap()).unwrap();
        super::store(folder.path()).find(&expected(7)).unwrap_err().reason
    };
    for pages in ["7ff+2", "3+1 1+1", "1+0", "ffffffffffffe+1"] {
        let reason = refused(Parent { pages: pages.parse().unwrap(), ..named.clone() });
        assert!(matches!(reason, Reason::Damaged { part: Part::Manifest, .. }), "{pages}: {reason}");
    }
    // Itself, and one that builds upon another.
    let itself = Parent { svmid: 7, checksum: written.memory.checksum, ..named.clone() };
    assert!(matches!(refused(itself), Reason::OtherParent(7)));
    let store = super::store(folder.path());
    let whole = save(&store, &expected(2), b'w');
    let middle =
        store.stage(&expected(3), Some(&whole)).unwrap().copy(&ram(b'm'), runs(), vec![1], Instant::now());
    let middle = middle.unwrap().commit().unwrap();
    let checksum = middle.manifest().memory.checksum;
    // A snapshot that is asked to build upon it is whole instead.
    let upon = store.stage(&expected(4), Some(&middle)).unwrap().copy(
        &ram(b'u'),
        runs(),
        vec![b'u'; 5000],
        Instant::now(),
    );
    let upon = upon.unwrap().commit().unwrap();
    assert_eq!((upon.manifest().parent.as_ref(), mark(&upon)), (None, b'u'));
    drop((whole, middle, upon, store));
    assert!(matches!(refused(Parent { svmid: 3, checksum, ..named.clone() }), Reason::OtherParent(3)));
    assert_eq!(mark(&super::store(folder.path()).find(&expected(4)).unwrap().unwrap()), b'u');
}
