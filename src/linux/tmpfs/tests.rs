use vm_memory::VolatileSlice;

use super::*;
use crate::linux::file::Object;
use crate::vmm::GuestMemory;

const USER: Caller = Caller { uid: 1000, gid: 1000 };
const ADMIN: Caller = Caller { uid: 0, gid: 0 };
const THEN: Time = (1, 0);

fn file_system(size: u64, caller: Caller) -> Arc<Tmpfs> {
    let memory = Arc::new(GuestMemory::new(16 << 20).expect("memory"));
    let space = Arc::new(Mutex::new(AddressSpace::new(memory)));
    Tmpfs::new(1, size, 0o1777, caller, &space)
}

fn tree() -> Tree {
    Tree::new(0o777, USER, 1 << 20, THEN)
}

fn file(tree: &mut Tree, at: Ino, name: &str) -> Ino {
    tree.create(at, name.as_bytes(), (USER, 0o644, THEN), || Content::Socket).expect("a file")
}

fn directory(tree: &mut Tree, at: Ino, name: &str) -> Ino {
    tree.make_directory(at, name.as_bytes(), (USER, 0o755, THEN)).expect("a directory")
}

fn links(tree: &Tree, ino: Ino) -> Option<u32> {
    tree.get(ino).ok().map(|inode| inode.links)
}

#[test]
fn renaming_replaces_what_linux_replaces() {
    let mut tree = tree();
    let by = (USER, THEN);
    let (a, b) = (directory(&mut tree, ROOT, "a"), directory(&mut tree, ROOT, "b"));
    let inner = directory(&mut tree, a, "inner");
    let one = file(&mut tree, a, "one");
    let two = file(&mut tree, b, "two");
    for (from, to, replace, expected) in [
        ((ROOT, "a"), (ROOT, "b"), Replace::Yes, Err(Errno::ENOTEMPTY)),
        ((ROOT, "a"), (inner, "x"), Replace::Yes, Err(Errno::EINVAL)),
        ((a, "one"), (ROOT, "b"), Replace::Yes, Err(Errno::EISDIR)),
        ((a, "inner"), (b, "two"), Replace::Yes, Err(Errno::ENOTDIR)),
        ((a, "one"), (b, "two"), Replace::No, Err(Errno::EEXIST)),
        ((a, "one"), (b, "none"), Replace::Exchange, Err(Errno::ENOENT)),
        ((a, "none"), (b, "two"), Replace::Yes, Err(Errno::ENOENT)),
        ((a, "one"), (b, "two"), Replace::Exchange, Ok(())),
        ((a, "inner"), (b, "inner"), Replace::Yes, Ok(())),
        ((a, "one"), (b, "two"), Replace::Yes, Ok(())),
        ((ROOT, "a"), (b, "inner"), Replace::Yes, Ok(())),
    ] {
        let outcome = tree.rename((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()), by, replace);
        assert_eq!(outcome, expected, "{from:?} to {to:?} {replace:?}");
    }
    // `one` moved out and was replaced; `a` took the place of `inner`, which had moved to `b`.
    assert_eq!((links(&tree, one), links(&tree, two), links(&tree, inner)), (None, Some(1), None));
    assert_eq!(tree.path_of(a), Ok(b"b/inner".to_vec()));
    assert_eq!((links(&tree, ROOT), links(&tree, b), links(&tree, a)), (Some(3), Some(3), Some(2)));
    assert_eq!(tree.unlink(ROOT, b"b", by, true), Err(Errno::ENOTEMPTY));
}

#[test]
fn rights_are_those_of_the_caller() {
    let mut tree = tree();
    let theirs = Caller { uid: 2000, gid: 2000 };
    let shared = tree.make_directory(ROOT, b"shared", (ADMIN, 0o1777, THEN)).expect("a directory");
    let closed = tree.make_directory(ROOT, b"closed", (ADMIN, 0o755, THEN)).expect("a directory");
    tree.create(shared, b"file", (theirs, 0o640, THEN), || Content::Fifo).expect("a file");
    let ino = tree.lookup(shared, b"file", USER).expect("found");
    assert_eq!(tree.check_open(ino, USER, (true, false)), Err(Errno::EACCES));
    assert_eq!(tree.check_open(ino, Caller { gid: 2000, ..USER }, (true, false)), Ok(()));
    assert_eq!(tree.check_open(ino, ADMIN, (true, true)), Ok(()));
    assert_eq!(tree.unlink(shared, b"file", (USER, THEN), false), Err(Errno::EPERM));
    assert_eq!(tree.unlink(shared, b"file", (theirs, THEN), false), Ok(()));
    let made = tree.make_directory(closed, b"x", (USER, 0o755, THEN));
    assert_eq!(made, Err(Errno::EACCES));
}

#[test]
fn names_and_attributes_are_bounded() {
    let mut tree = tree();
    let mut made = 0;
    let error = loop {
        match tree.create(ROOT, format!("{made}").as_bytes(), (USER, 0o644, THEN), || Content::Fifo) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, Errno::ENOSPC);
    assert!((1000..4000).contains(&made), "{made}");
    for i in 0..made {
        tree.unlink(ROOT, format!("{i}").as_bytes(), (USER, THEN), false).expect("removed");
    }
    let empty = tree.usage();
    assert_eq!(empty.2, 1);
    let ino = file(&mut tree, ROOT, "file");
    assert_eq!(tree.set_extended(ino, b"user.a", vec![0; 100 << 10], 0), Err(Errno::ENOSPC));
    tree.set_extended(ino, b"user.a", vec![0; 1000], 0).expect("set");
    assert_eq!(tree.set_extended(ino, b"user.a", vec![], libc::XATTR_CREATE), Err(Errno::EEXIST));
    tree.unlink(ROOT, b"file", (USER, THEN), false).expect("removed");
    assert_eq!(tree.usage(), empty);
    let long = [b'n'; NAME_MAX + 1];
    assert_eq!(tree.lookup(ROOT, &long, USER), Err(Errno::ENAMETOOLONG));
}

#[test]
fn a_listing_goes_on_where_it_stood() {
    let fs = file_system(1 << 20, USER);
    for name in ["a", "b", "c", "d"] {
        fs.with(|tree| file(tree, ROOT, name));
    }
    let open = OpenDirectory::new(&fs, ROOT).expect("open");
    let next = |most: usize| {
        let mut names = Vec::new();
        open.list(|_, name, _, _| {
            let fits = names.len() < most;
            if fits {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            fits
        })
        .expect("listed");
        names
    };
    assert_eq!(next(4), [".", "..", "a", "b"]);
    fs.with(|tree| {
        tree.unlink(ROOT, b"a", (USER, THEN), false).expect("removed");
        tree.unlink(ROOT, b"c", (USER, THEN), false).expect("removed");
        file(tree, ROOT, "e");
    });
    assert_eq!(next(9), ["d", "e"]);
    assert!(next(9).is_empty());
    open.seek(0, libc::SEEK_SET).expect("rewound");
    assert_eq!(next(9), [".", "..", "b", "d", "e"]);
}

#[test]
fn what_is_removed_while_open_goes_when_it_is_closed() {
    let fs = file_system(64 << 10, USER);
    let ino =
        fs.with(|tree| tree.create(ROOT, b"file", (USER, 0o600, THEN), || fs.new_content())).expect("a file");
    let open = OpenFile::new(&fs, ino).expect("open");
    let mut text = b"content".to_vec();
    assert_eq!(open.write_at(&[VolatileSlice::from(text.as_mut_slice())], 4096), Ok(7));
    fs.with(|tree| tree.unlink(ROOT, b"file", (USER, THEN), false)).expect("removed");
    assert_eq!(open.attributes().map(|a| (a.size, a.links, a.blocks)), Ok((4103, 0, 8)));
    let mut read = [0; 16];
    assert_eq!(open.read_at(&[VolatileSlice::from(&mut read[..])], 4094), Ok(9));
    assert_eq!(&read[..9], b"\0\0content");
    let used = |fs: &Tmpfs| fs.statistics()[2] - fs.statistics()[3];
    assert_eq!(used(&fs), 1);
    drop(open);
    assert_eq!(used(&fs), 0);
    assert_eq!(OpenFile::new(&fs, ino).map(drop), Err(Errno::ENOENT));
}

#[test]
fn space_is_bounded_by_the_size() {
    let fs = file_system(8 * 4096, USER);
    let open = OpenFile::unnamed(&fs, 0o600, false).expect("a file");
    assert_eq!(open.allocate(0, 0, 9 * 4096), Err(Errno::ENOSPC));
    assert_eq!(open.allocate(0, u64::MAX / 2, u64::MAX / 2), Err(Errno::EFBIG));
    assert_eq!(open.allocate(0, 0, 8 * 4096), Ok(()));
    assert_eq!(open.attributes().map(|a| (a.size, a.blocks)), Ok((8 * 4096, 64)));
    assert_eq!(open.allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 4 * 4096), Ok(()));
    assert_eq!(open.attributes().map(|a| (a.size, a.blocks)), Ok((8 * 4096, 32)));
    // A length costs nothing.
    assert_eq!(open.resize(1 << 50), Ok(()));
    assert_eq!(open.seek(0, libc::SEEK_DATA), Ok(4 * 4096));
    assert_eq!(open.seek(0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(open.seek(1, libc::SEEK_END), Ok((1 << 50) + 1));
    assert_eq!(open.resize(u64::MAX), Err(Errno::EFBIG));
}

#[test]
fn seals_hold() {
    let fs = file_system(1 << 20, USER);
    let open = OpenFile::unnamed(&fs, 0o600, false).expect("a file");
    open.resize(100).expect("a size");
    assert_eq!(open.add_seals(libc::F_SEAL_GROW as u32), Err(Errno::EPERM));
    open.allow_seals(true).expect("a memory file");
    open.add_seals(libc::F_SEAL_GROW as u32).expect("sealed");
    let mut text = *b"text";
    assert_eq!(open.write_at(&[VolatileSlice::from(&mut text[..])], 96), Ok(4));
    assert_eq!(open.write_at(&[VolatileSlice::from(&mut text[..])], 97), Err(Errno::EPERM));
    assert_eq!(open.resize(101), Err(Errno::EPERM));
    assert_eq!(open.resize(99), Ok(()));
    open.add_seals((libc::F_SEAL_WRITE | libc::F_SEAL_SEAL) as u32).expect("sealed");
    assert_eq!(open.write_at(&[VolatileSlice::from(&mut text[..])], 0), Err(Errno::EPERM));
    assert_eq!(open.add_seals(libc::F_SEAL_SHRINK as u32), Err(Errno::EPERM));
    assert_eq!(open.add_seals(1 << 20), Err(Errno::EINVAL));
}
