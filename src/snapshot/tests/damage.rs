//! Whatever happened to a snapshot, it is refused with the reason, and a new one takes its place.
use super::*;
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A store with a saved snapshot that nobody has open, and the path of one of its files.
fn saved(part: Part) -> (tempfile::TempDir, Store, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    save(&store, &expected(7), b'a');
    let path = folder.path().join("7").join(part.file_name());
    (folder, store, path)
}

/// Why the snapshot is refused now; a new one is taken.
fn reason(store: &Store, expected: &Expected) -> Reason {
    let refusal = store.find(expected).unwrap_err();
    assert_eq!(refusal.svmid, 7);
    assert!(refusal.to_string().starts_with("the snapshot with svmid 7 is not used: "), "{refusal}");
    drop(save(store, expected, b'n'));
    assert_eq!(mark(&store.find(expected).unwrap().unwrap()), b'n');
    refusal.reason
}

fn flip(path: &std::path::Path, at: u64, bit: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
}

#[test]
fn a_missing_file() {
    for part in Part::ALL {
        let (_folder, store, path) = saved(part);
        fs::remove_file(path).unwrap();
        assert!(matches!(reason(&store, &expected(7)), Reason::Missing(missing) if missing == part));
    }
}

#[test]
fn a_file_that_is_cut_short_or_too_long() {
    for part in Part::ALL {
        let (_folder, store, path) = saved(part);
        for change in [-1, 1, i64::MIN] {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(file.metadata().unwrap().len().saturating_add_signed(change)).unwrap();
            let reason = reason(&store, &expected(7));
            assert!(matches!(&reason, Reason::Damaged { part: p, .. } if *p == part), "{reason}");
        }
    }
}

#[test]
fn something_else_in_the_place_of_a_file() {
    for part in Part::ALL {
        let (folder, store, path) = saved(part);
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = reason(&store, &expected(7));
        assert!(matches!(&found, Reason::Damaged { part: p, .. } if *p == part), "{found}");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(folder.path().join("lock"), &path).unwrap();
        let found = reason(&store, &expected(7));
        assert!(matches!(&found, Reason::Unreadable { part: p, .. } if *p == part), "{found}");
    }
}

#[test]
fn another_number() {
    let (folder, store, _) = saved(Part::Manifest);
    save(&store, &expected(8), b'b');
    fs::remove_dir_all(folder.path().join("7")).unwrap();
    fs::rename(folder.path().join("8"), folder.path().join("7")).unwrap();
    assert!(matches!(reason(&store, &expected(7)), Reason::Svmid(8)));
}

#[test]
fn another_format() {
    let (_folder, store, path) = saved(Part::Manifest);
    let text = fs::read_to_string(&path).unwrap().replace("\"format\": 2", "\"format\": 3");
    fs::write(&path, text).unwrap();
    assert_eq!(reason(&store, &expected(7)).to_string(), "it is of format 3, and this Hydra reads format 2");
}

#[test]
fn sizes_that_are_too_large_reserve_nothing() {
    let (_folder, store, path) = saved(Part::Manifest);
    let written = Manifest::parse(&fs::read(&path).unwrap()).unwrap();
    for huge in [1 << 40, u64::MAX] {
        let memory = MemoryFile { bytes: huge, in_use: huge, stored: huge, ..written.memory };
        let state = StateFile { bytes: huge, ..written.state };
        let manifest = Manifest { memory, state, ..written.clone() };
        fs::write(&path, manifest.to_text().unwrap()).unwrap();
        let wanted = Expected { memory: huge, ..expected(7) };
        assert!(matches!(
            store.find(&wanted).unwrap_err().reason,
            Reason::Damaged { part: Part::Memory, .. }
        ));
        fs::write(&path, Manifest { state, ..written.clone() }.to_text().unwrap()).unwrap();
        assert!(matches!(
            store.find(&expected(7)).unwrap_err().reason,
            Reason::Damaged { part: Part::State, .. }
        ));
    }
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(matches!(reason(&store, &expected(7)), Reason::Damaged { part: Part::Manifest, .. }));
}

#[test]
fn of_something_else() {
    let other = || "other".to_owned();
    let (_folder, store, _) = saved(Part::Manifest);
    let is = expected(7);
    for (wanted, sentence) in [
        (
            Expected { function: other(), ..is.clone() },
            "it is of the function `hello`, and one of `other` is wanted",
        ),
        (
            Expected { language: other(), ..is.clone() },
            "it is of a function in python, and one in other is wanted",
        ),
        (Expected { code: other(), ..is.clone() }, "the function's code has changed since it was made"),
        (
            Expected { runtime: other(), ..is.clone() },
            "the language's runtime or its agent has changed since it was made",
        ),
        (Expected { memory: 2 * RAM, ..is.clone() }, "it has 8 MiB of memory, and 16 MiB are wanted"),
        (
            Expected { settings: BTreeMap::new(), ..is.clone() },
            "it was made with entry point `main`, and not set is wanted",
        ),
    ] {
        let refused = |store: &Store| store.find(&wanted).unwrap_err().reason.to_string();
        assert_eq!(refused(&store), sentence);
        // The same when somebody has it open.
        let open = store.find(&is).unwrap().unwrap();
        assert_eq!(refused(&store), sentence);
        assert_eq!(mark(&open), b'a');
    }
}

#[test]
fn of_a_cpu_that_can_do_more() {
    let (folder, store, _) = saved(Part::Manifest);
    drop(store);
    let lesser = Store::open(folder.path(), Cpu { features: vec!["avx".into()], ..cpu() }).unwrap();
    let reason = reason(&lesser, &expected(7));
    assert!(matches!(reason, Reason::Cpu(_)));
    assert_eq!(reason.to_string(), "it needs a CPU with avx2, which this one lacks");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_flipped_bit_anywhere(part in 0..3usize, at in any::<proptest::sample::Index>(), bit in 0..8u8) {
        let part = Part::ALL[part];
        let (_folder, store, path) = saved(part);
        flip(&path, at.index(fs::metadata(&path).unwrap().len() as usize) as u64, bit);
        let refused = store.find(&expected(7)).unwrap_err();
        // One in the number of the format makes the manifest one of another format.
        let found = matches!(&refused.reason, Reason::Damaged { part: p, .. } if *p == part)
            || part == Part::Manifest && matches!(&refused.reason, Reason::Format { .. });
        prop_assert!(found, "{}", refused);
    }
}

#[test]
fn a_flipped_bit_in_each_sort_of_memory() {
    let (_folder, store, path) = saved(Part::Memory);
    // In a used page, in a hole between, in the last byte.
    for at in [4096 + 17, 500 * 4096, 900 * 4096, RAM - 1] {
        flip(&path, at, 3);
        let refused = store.find(&expected(7)).unwrap_err();
        assert!(matches!(refused.reason, Reason::Damaged { part: Part::Memory, .. }), "{at}: {refused}");
        flip(&path, at, 3);
        assert_eq!(mark(&store.find(&expected(7)).unwrap().unwrap()), b'a');
    }
}
