use super::*;
use proptest::prelude::*;
use std::io::Cursor;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// An entry of an archive that no tool would make.
#[derive(Clone, Debug)]
struct Raw<'a> {
    name: &'a [u8],
    data: &'a [u8],
    mode: u32,
    flags: u16,
}

fn raw<'a>(name: &'a str, data: &'a str) -> Raw<'a> {
    Raw { name: name.as_bytes(), data: data.as_bytes(), mode: 0o100644, flags: 0x800 }
}

/// A zip of stored entries, byte by byte after PKWARE's APPNOTE 4.3.7, 4.3.12 and 4.3.16.
fn raw_zip(entries: &[Raw<'_>]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = file.len() as u32;
        let (size, name) = (entry.data.len() as u32, entry.name.len() as u16);
        let mut common = Vec::new();
        for field in [20, entry.flags, 0, 0, 0x21] {
            common.extend(field.to_le_bytes());
        }
        for field in [crc32(entry.data), size, size] {
            common.extend(field.to_le_bytes());
        }
        common.extend(name.to_le_bytes());
        common.extend([0; 2]);
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(entry.name);
        file.extend(entry.data);
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(entry.name);
    }
    let start = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        file.extend((entries.len() as u16).to_le_bytes());
    }
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0; 2]);
    file
}

fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// An archive as tools make it.
fn tool_zip(entries: &[(&str, &[u8], u32)], method: CompressionMethod, zip64: bool) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, data, mode) in entries {
        let options =
            SimpleFileOptions::default().compression_method(method).unix_permissions(*mode).large_file(zip64);
        zip.start_file(*name, options).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Unpacks into a folder of its own inside another that must hold nothing else afterwards.
fn unpacked(archive: &[u8], limits: &Limits) -> (tempfile::TempDir, Result<u64, UnpackError>) {
    let around = tempfile::tempdir().unwrap();
    let folder = around.path().join("inner");
    fs::create_dir(&folder).unwrap();
    let result = unpack(Cursor::new(archive), &folder, limits);
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 1, "something left the folder");
    assert_plain(&folder);
    (around, result)
}

fn assert_plain(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        assert!(kind.is_dir() || kind.is_file(), "{:?}", entry.path());
        if kind.is_dir() {
            assert_plain(&entry.path());
        }
    }
}

fn refusal(archive: &[u8]) -> UnpackError {
    unpacked(archive, &Limits::default()).1.expect_err("must be refused")
}

#[test]
fn unpacks_what_tools_make() {
    for (method, zip64) in [
        (CompressionMethod::Stored, false),
        (CompressionMethod::Deflated, false),
        (CompressionMethod::Deflated, true),
    ] {
        let archive = tool_zip(
            &[("main.py", b"def main(args): pass", 0o664), ("bin/tool", b"#!", 0o4777)],
            method,
            zip64,
        );
        let (around, result) = unpacked(&archive, &Limits::default());
        assert_eq!(result.unwrap(), 22);
        let inner = around.path().join("inner");
        assert_eq!(fs::read(inner.join("main.py")).unwrap(), b"def main(args): pass");
        let mode = |path: &str| fs::metadata(inner.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode("main.py"), mode("bin/tool"), mode("bin"), mode("")], [0o444, 0o555, 0o555, 0o555]);
        crate::folder::remove_tree(&inner).unwrap();
        assert!(!inner.exists());
    }
}

#[test]
fn takes_folders_in_any_order_and_dots() {
    let mut folder = raw("a/", "");
    folder.mode = 0o040755;
    let archive = raw_zip(&[raw("./", ""), raw("a/b/c", "1"), folder, raw("./d", "2")]);
    let (around, result) = unpacked(&archive, &Limits::default());
    assert_eq!(result.unwrap(), 2);
    assert_eq!(fs::read(around.path().join("inner/d")).unwrap(), b"2");
}

#[test]
fn refuses_names_that_lead_out_or_clash() {
    for names in [
        &["../evil"][..],
        &["a/../../evil"],
        &["/tmp/evil"],
        &["..\\evil"],
        &["C:/evil"],
        &["a\0b"],
        &[""],
        &["a", "a"],
        &["a", "a/b"],
        &["a/b", "a"],
    ] {
        let entries: Vec<Raw<'_>> = names.iter().map(|name| raw(name, "evil")).collect();
        let error = refusal(&raw_zip(&entries));
        assert!(matches!(error, UnpackError::Name { .. }), "{names:?}: {error}");
    }
}

#[test]
fn refuses_what_is_no_plain_file() {
    for (mode, kind) in [
        (0o120777, "a symbolic link"),
        (0o020666, "a device"),
        (0o060666, "a device"),
        (0o010644, "a pipe"),
        (0o140755, "a socket"),
    ] {
        let entry = Raw { mode, ..raw("x", "/etc/passwd") };
        let error = refusal(&raw_zip(&[entry]));
        assert!(matches!(error, UnpackError::Special { kind: found, .. } if found == kind), "{error}");
    }
}

#[test]
fn refuses_encrypted_entries() {
    let archive = raw_zip(&[Raw { flags: 0x801, ..raw("secret.py", "0123456789abcdef") }]);
    assert!(matches!(refusal(&archive), UnpackError::Encrypted { .. }));
    let error = check(Cursor::new(&archive), &Limits::default()).unwrap_err();
    assert!(matches!(error, UnpackError::Encrypted { .. }));
}

#[test]
fn counts_bytes_while_inflating() {
    let zeros = vec![0; 8 << 20];
    let mut archive = tool_zip(&[("bomb", &zeros, 0o644)], CompressionMethod::Deflated, false);
    assert!(archive.len() < 64 << 10);
    let limits = Limits { unpacked_bytes: 1 << 20, ..Limits::default() };
    assert!(matches!(unpacked(&archive, &limits).1, Err(UnpackError::Bytes(_))));
    // The same with headers that claim one byte.
    let claimed = (zeros.len() as u32).to_le_bytes();
    for at in 0..archive.len() - 4 {
        if archive[at..at + 4] == claimed {
            archive[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
        }
    }
    let (around, result) = unpacked(&archive, &limits);
    result.unwrap_err();
    assert!(fs::metadata(around.path().join("inner/bomb")).map_or(0, |file| file.len()) <= 1 << 20);
}

#[test]
fn bounds_are_exact() {
    let archive = raw_zip(&[raw("a", "12"), raw("b/c", "34")]);
    let limits = Limits { unpacked_bytes: 4, entries: 3, ..Limits::default() };
    assert_eq!(unpacked(&archive, &limits).1.unwrap(), 4);
    let less = Limits { unpacked_bytes: 3, ..limits.clone() };
    assert!(matches!(unpacked(&archive, &less).1, Err(UnpackError::Bytes(3))));
    // The folder `b` counts too.
    let less = Limits { entries: 2, ..limits };
    assert!(matches!(unpacked(&archive, &less).1, Err(UnpackError::Entries(2))));
    assert!(matches!(
        check(Cursor::new(&archive), &Limits { entries: 1, ..less }),
        Err(UnpackError::Entries(1))
    ));
}

#[test]
fn refuses_damage() {
    assert!(matches!(refusal(b""), UnpackError::Damaged(_)));
    assert!(matches!(refusal(&raw_zip(&[])), UnpackError::Empty));
    let archive = tool_zip(&[("a", b"some text, some text", 0o644)], CompressionMethod::Deflated, false);
    for length in 0..archive.len() {
        refusal(&archive[..length]);
    }
    let mut wrong = raw_zip(&[raw("a", "data")]);
    wrong[31] ^= 1;
    let error = refusal(&wrong);
    assert!(matches!(error, UnpackError::Entry { .. }), "a wrong checksum: {error}");
}

#[test]
fn messages_escape_names() {
    let error = refusal(&raw_zip(&[raw("a\n\u{1b}[31m", "")])).to_string();
    assert_eq!(error, "the entry `a\\n\\u{1b}[31m` is refused: its name holds a control character");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_entry_escapes(
        names in proptest::collection::vec("([a-b.]{0,3}/){0,3}[a-b./\\\\:\0]{0,4}", 1..6),
        modes in proptest::collection::vec(0u32..0o200000, 6),
    ) {
        let entries: Vec<Raw<'_>> =
            names.iter().zip(&modes).map(|(name, mode)| Raw { mode: *mode, ..raw(name, "x") }).collect();
        // The checks are in here; refusal and success are both right.
        let _ = unpacked(&raw_zip(&entries), &Limits::default());
    }

    #[test]
    fn damage_anywhere_is_survived(at in 0usize..400, value: u8, more in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut archive = tool_zip(
            &[("a/b.py", b"text text text", 0o644), ("c", &more, 0o755)], CompressionMethod::Deflated, false,
        );
        let at = at % archive.len();
        archive[at] = value;
        let limits = Limits { unpacked_bytes: 1 << 16, ..Limits::default() };
        if let (_, Ok(bytes)) = unpacked(&archive, &limits) {
            prop_assert!(bytes <= limits.unpacked_bytes);
        }
        let _ = check(Cursor::new(&archive), &limits);
    }
}
