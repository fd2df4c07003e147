use super::*;
use proptest::prelude::*;

fn name(text: &str) -> FileName {
    let url = reqwest::Url::parse(&format!("http://h/{text}")).unwrap();
    FileName::of_download(&url, None, &url)
}

/// The first bytes of an ELF file, see elf(5).
fn elf(kind: u16, machine: u16) -> Vec<u8> {
    let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    head.extend(kind.to_le_bytes());
    head.extend(machine.to_le_bytes());
    head
}

const CLASS: &[u8] = &[0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 61];

#[test]
fn content_that_fits_its_name() {
    for (file, head, form) in [
        ("x.so", &elf(ELF_SHARED, ELF_MACHINE)[..], Form::SharedObject),
        ("x.zip", b"PK\x03\x04", Form::Tree),
        ("x.jar", b"PK\x03\x04", Form::Jar),
        ("X.class", CLASS, Form::Class),
        ("x.py", b"def main(args): pass", Form::Python),
        ("x.py", b"# -*- coding: latin-1 -*-\n# \xe4", Form::Python),
        ("x.js", b"<!-- legal --> \n exports.main = 1", Form::JavaScript),
        ("x.mjs", b"export default 1", Form::JavaScript),
        ("x.cjs", b"exports.main = 1", Form::JavaScript),
    ] {
        assert_eq!(identify(&name(file), head), Ok((form, name(file))), "{file}");
    }
}

#[test]
fn content_names_itself() {
    for (head, form, called) in [
        (&elf(ELF_SHARED, ELF_MACHINE)[..], Form::SharedObject, "get.so"),
        (CLASS, Form::Class, "get.class"),
        (b"PK\x03\x04", Form::Tree, "get.zip"),
        (
            b"PK\x03\x04\x14\0\x08\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09\0\x04\0META-INF/",
            Form::Jar,
            "get.jar",
        ),
    ] {
        let (found, name) = identify(&name("get"), head).unwrap();
        assert_eq!((found, name.text().as_str()), (form, called));
    }
    identify(&name("get"), b"print('hello')").unwrap_err();
}

#[test]
fn mismatches_say_what_was_found() {
    let page = b"\n<!DOCTYPE html><html>";
    let other = ELF_MACHINE + 1;
    for (file, head, found) in [
        ("x.so", &page[..], "an HTML page"),
        ("x.py", page, "an HTML page"),
        ("x.js", b"\xef\xbb\xbf<HTML>", "an HTML page"),
        ("x.js", b"<?xml version='1.0'?>", "an XML document"),
        ("x.zip", b"\x1f\x8b\x08", "a gzip file"),
        ("x.zip", b"Not Found", "text that begins with \"Not Found\""),
        ("x.py", b"PK\x03\x04", "a zip archive"),
        ("x.py", b"", "an empty file"),
        ("x.py", b"\xff\xfed\0e\0f\0", "text in UTF-16 (source must be UTF-8)"),
        (
            "x.class",
            &[0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 2],
            "binary data that begins with the bytes cafebabe00000002",
        ),
        ("x.so", &elf(2, ELF_MACHINE), "an ELF file that is no shared object (type 2)"),
        ("x.so", &elf(3, other), &format!("an ELF file for another machine (ELF machine {other})")),
        ("x.so", b"\x7fELF", "an ELF file that is not 64-bit and little-endian, or is cut short"),
    ] {
        assert_eq!(identify(&name(file), head).unwrap_err().found, found, "{file}");
    }
}

/// Makes a tree of these files (`/` at the end: a folder) and resolves it as the zip `app.zip`.
fn resolved(files: &[(&str, &[u8])]) -> (Form, String, Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let (form, root, entry) = resolve_tree(folder.path(), "app").unwrap();
    let below = |path: &Path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
    (form, below(&root), entry.as_deref().map(below))
}

#[test]
fn a_zip_of_a_shared_object_is_that_object() {
    let elf = elf(ELF_SHARED, ELF_MACHINE);
    let object = |root: &str, entry: &str| (Form::SharedObject, root.to_owned(), Some(entry.to_owned()));
    assert_eq!(resolved(&[("app.so", &elf), ("libother.so", &elf)]), object("", "app.so"));
    assert_eq!(resolved(&[("libapp.so", &elf), ("readme", b"")]), object("", "libapp.so"));
    assert_eq!(resolved(&[("app/app.so", &elf), ("app/x.so", &elf)]), object("app", "app/app.so"));
    assert_eq!(resolved(&[("renamed.so", &elf)]), object("", "renamed.so"));
    assert_eq!(resolved(&[("app.so", b"no ELF"), ("main.py", b"")]).0, Form::Tree);
}

#[test]
fn a_projects_only_folder_is_the_root() {
    let root = |files: &[&str]| resolved(&files.iter().map(|file| (*file, &b"x"[..])).collect::<Vec<_>>()).1;
    assert_eq!(root(&["main.py", "lib/a.py"]), "");
    assert_eq!(root(&["repository-main/lib/a.py"]), "repository-main");
    assert_eq!(root(&["app/main.py"]), "app");
    assert_eq!(root(&["app/package.json", "__MACOSX/app/._package.json", ".DS_Store"]), "app");
    assert_eq!(root(&["out/a.jar"]), "out");
    // Folders that are part of names stay.
    assert_eq!(root(&["package/__init__.py", "package/main.py"]), "");
    assert_eq!(root(&["com/example/Main.class"]), "");
    assert_eq!(root(&["package/functions.py"]), "");
    assert_eq!(root(&["META-INF/MANIFEST.MF"]), "");
}

proptest! {
    #[test]
    fn any_content_gets_an_answer(head in proptest::collection::vec(any::<u8>(), 0..64), file in 0usize..9) {
        let file = ["x.so", "x.zip", "x.jar", "x.class", "x.py", "x.js", "x.mjs", "x.cjs", "x"][file];
        match identify(&name(file), &head) {
            Ok((_, name)) => prop_assert!(name.extension.is_some()),
            Err(mismatch) => prop_assert!(!mismatch.found.is_empty()),
        }
    }
}
