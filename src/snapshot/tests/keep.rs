//! Saving, finding, replacing, removing.
use super::*;
use std::os::unix::fs::MetadataExt;

#[test]
fn what_is_saved_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    assert!(store.find(&expected(7)).unwrap().is_none());
    let saved = save(&store, &expected(7), b'a');
    assert_eq!((mark(&saved), left_over(folder.path())), (b'a', 0));
    let found = store.find(&expected(7)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&saved, &found), "it is open already");
    drop((saved, found));
    let found = store.find(&expected(7)).unwrap().unwrap();
    assert_eq!(mark(&found), b'a');
    let manifest = found.manifest();
    assert_eq!(
        (manifest.memory.bytes, manifest.memory.in_use, manifest.memory.stored),
        (RAM, 208 * 4096, 5 * 4096)
    );
    // After a restart too.
    drop((store, found));
    let store = super::store(folder.path());
    assert_eq!(mark(&store.find(&expected(7)).unwrap().unwrap()), b'a');
    assert!(store.find(&expected(8)).unwrap().is_none());
}

#[test]
fn what_programs_touch_first_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("7/working-set");
    let saved = save(&store(folder.path()), &expected(7), b'a');
    assert!(!saved.has_working_set());
    // Moved with the folder, and not into that of the one that took its place.
    let old = saved;
    let new = save(&store(folder.path()), &expected(7), b'b');
    let touched = || vec![0x1000..0x2000, 0x3000..0x5000];
    old.keep_working_set(WorkingSet::new(touched(), vec![]));
    assert!(!file.exists());
    new.keep_working_set(WorkingSet::new(vec![], touched()));
    drop((old, new));
    let find = || store(folder.path()).find(&expected(7)).unwrap().unwrap();
    assert!(find().has_working_set());
    // Damage costs nothing but time.
    std::fs::write(&file, "damaged").unwrap();
    let found = find();
    assert!(!found.has_working_set());
    found.keep_working_set(WorkingSet::default());
    assert!(find().has_working_set());
    assert!(Shelf::new(folder.path()).remove(7).unwrap());
    assert_eq!(left_over(folder.path()), 0);
}

#[test]
fn what_one_has_touched_so_far_does_until_one_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let saved = save(&store(folder.path()), &expected(7), b'a');
    let set = |end| WorkingSet::new(vec![0x1000..end, end..end], vec![]);
    assert!(saved.knows_nothing() && saved.brought_in().is_none());
    saved.keep_glance(set(0x2000));
    saved.keep_glance(set(0x3000));
    assert_eq!(saved.brought_in().as_deref(), Some(&set(0x2000)));
    // It is not kept: there is more to come.
    assert!(!saved.has_working_set() && !folder.path().join("7/working-set").exists());
    saved.keep_working_set(set(0x4000));
    saved.keep_working_set(set(0x5000));
    saved.keep_glance(set(0x6000));
    assert_eq!(saved.brought_in().as_deref(), Some(&set(0x4000)));
    assert!(saved.has_working_set() && folder.path().join("7/working-set").exists());
}

#[test]
fn the_memory_takes_the_room_of_what_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = save(&store(folder.path()), &expected(7), b'a');
    let metadata = snapshot.memory().metadata().unwrap();
    assert_eq!(metadata.len(), RAM);
    assert!(metadata.blocks() * 512 <= 16 * 4096, "{} blocks", metadata.blocks());
    assert_eq!(metadata.mode() & 0o077, 0);
}

#[test]
fn a_new_one_replaces_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let old = save(&store, &expected(7), b'a');
    let new = save(&store, &expected(7), b'b');
    assert!(Arc::ptr_eq(&new, &store.find(&expected(7)).unwrap().unwrap()));
    // Who has the old one keeps it.
    assert_eq!((mark(&old), mark(&new)), (b'a', b'b'));
    assert_eq!((store.shelf().svmids().unwrap(), left_over(folder.path())), (vec![7], 0));
}

#[test]
fn without_an_exchange_it_goes_in_steps() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let partial = folder.path().join("partial");
    for mark in [b'a', b'b'] {
        let draft = draft(&store, &expected(7), mark).unwrap();
        let staged = draft.staged_folder().to_owned();
        std::fs::write(staged.join("mark"), [mark]).unwrap();
        store.shelf().place_in_steps(&staged, 7).unwrap();
        assert_eq!(std::fs::read(folder.path().join("7/mark")).unwrap(), [mark]);
        drop(draft);
        assert_eq!(std::fs::read_dir(&partial).unwrap().count(), 0);
    }
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let before = save(&store, &expected(7), b'a');
    let draft = draft(&store, &expected(7), b'b').unwrap();
    assert_eq!(left_over(folder.path()), 1);
    drop(draft);
    assert_eq!(left_over(folder.path()), 0);
    assert!(Arc::ptr_eq(&before, &store.find(&expected(7)).unwrap().unwrap()));
}

#[test]
fn a_removed_one_lives_on_where_it_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let saved = save(&store, &expected(7), b'a');
    // As another process does it.
    assert!(Shelf::new(folder.path()).remove(7).unwrap());
    assert!(!store.remove(7).unwrap());
    assert_eq!((mark(&saved), left_over(folder.path())), (b'a', 0));
    assert!(store.find(&expected(7)).unwrap().is_none(), "it is gone, although somebody has it open");
    save(&store, &expected(7), b'b');
    assert_eq!(mark(&store.find(&expected(7)).unwrap().unwrap()), b'b');
    assert!(store.remove(7).unwrap());
    assert!(store.shelf().svmids().unwrap().is_empty());
}

#[test]
fn one_folder_has_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let error = Store::open(folder.path(), cpu()).unwrap_err().to_string();
    assert!(error.contains(&format!("in use by another Hydra (process {})", std::process::id())), "{error}");
    // A half-written snapshot keeps it too: it is to be committed there.
    let draft = draft(&store, &expected(7), b'a').unwrap();
    drop(store);
    assert!(Store::open(folder.path(), cpu()).is_err());
    draft.commit().unwrap();
    assert_eq!(mark(&super::store(folder.path()).find(&expected(7)).unwrap().unwrap()), b'a');
}

#[test]
fn what_is_no_snapshot_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Shelf::new(folder.path().join("missing")).svmids().unwrap().is_empty());
    let store = store(folder.path());
    save(&store, &expected(10), b'a');
    save(&store, &expected(9), b'a');
    for other in ["07", "x", "-1", "+1"] {
        std::fs::create_dir(folder.path().join(other)).unwrap();
    }
    assert_eq!(store.shelf().svmids().unwrap(), [9, 10]);
}

#[test]
fn many_threads_save_find_and_remove() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let store = &store;
            scope.spawn(move || {
                for turn in 0..20 {
                    let svmid = u64::from(turn % 2);
                    match (thread + turn) % 4 {
                        0 => drop(store.remove(svmid).unwrap()),
                        1 => drop(Shelf::new(store.shelf().folder()).verify(svmid).unwrap()),
                        2 => drop(store.find(&expected(svmid)).unwrap().map(|found| mark(&found))),
                        _ => assert_eq!(mark(&save(store, &expected(svmid), thread)), thread),
                    }
                }
            });
        }
    });
    assert_eq!(left_over(folder.path()), 0);
}
