//! The store with made-up memories and states; with real programs in `tests/snapshots.rs`.

mod crash;
mod damage;
mod keep;
mod layers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::draft::Draft;
use super::*;
use crate::vmm::{Cpu, GuestMemory, WorkingSet, XsaveLayout};

/// Guest RAM of the tests, in bytes.
const RAM: u64 = 8 << 20;

fn cpu() -> Cpu {
    Cpu {
        vendor: "GenuineIntel".into(),
        features: vec!["avx".into(), "avx2".into()],
        xsave: XsaveLayout { features: 7, size: 832 },
        components: vec![(576, 256)],
    }
}

fn store(folder: &Path) -> Store {
    Store::open(folder, cpu()).unwrap()
}

fn expected(svmid: u64) -> Expected {
    Expected {
        svmid,
        function: "hello".into(),
        language: "python".into(),
        settings: BTreeMap::from([("entry point".to_owned(), "main".to_owned())]),
        code: "ab".repeat(32),
        runtime: "cd".repeat(32),
        memory: RAM,
    }
}

/// RAM in which the pages `USED` hold `mark`, and others something that does not count.
fn ram(mark: u8) -> GuestMemory {
    let memory = GuestMemory::new(RAM).unwrap();
    for page in USED {
        memory.write(page * 4096 + 17, &[mark; 1000]);
    }
    memory.write(700 * 4096, b"free, but not cleared");
    memory
}

/// Pages with content: alone, side by side, the last.
const USED: [u64; 5] = [1, 2, 3, 1000, RAM / 4096 - 1];

/// What the tests say is in use: the pages with content and some that are zero.
fn runs() -> impl Iterator<Item = std::ops::Range<u64>> {
    [0..5 * 4096, 900 * 4096..1100 * 4096, RAM - 3 * 4096..RAM].into_iter()
}

fn draft(store: &Store, expected: &Expected, mark: u8) -> Result<Draft, SaveError> {
    draft_over(store, None, expected, mark)
}

fn draft_over(
    store: &Store,
    parent: Option<&Arc<Snapshot>>,
    expected: &Expected,
    mark: u8,
) -> Result<Draft, SaveError> {
    store.stage(expected, parent)?.copy(&ram(mark), runs(), vec![mark; 5000], Instant::now())
}

fn save(store: &Store, expected: &Expected, mark: u8) -> Arc<Snapshot> {
    draft(store, expected, mark).unwrap().commit().unwrap()
}

/// The `mark` that a snapshot was saved with, from its memory and its state alike.
fn mark(snapshot: &Snapshot) -> u8 {
    let memory = snapshot.image().map().unwrap();
    let mut page = [0; 4096];
    let mut mark = None;
    for at in 0..RAM / 4096 {
        memory.slice(at * 4096, 4096).unwrap().copy_to(&mut page);
        if USED.contains(&at) {
            assert_eq!(page[17..1017], [page[17]; 1000]);
            assert_eq!(*mark.get_or_insert(page[17]), page[17]);
        } else {
            assert_eq!(page, [0; 4096], "page {at}");
        }
    }
    let mark = mark.unwrap();
    assert_eq!(snapshot.state(), [mark; 5000]);
    mark
}

/// The files and folders half-written or half-removed.
fn left_over(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("partial")).unwrap().count()
}
