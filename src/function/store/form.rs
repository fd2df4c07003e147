//! What code is: by its name and its first bytes, which must agree.
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::name::{Extension, FileName};

/// How an agent is to load code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// An ELF shared object, alone or out of a zip of its own name.
    SharedObject,
    /// A jar, as it came.
    Jar,
    /// One class of the JVM.
    Class,
    /// One Python module.
    Python,
    /// One JavaScript module.
    JavaScript,
    /// A source tree, unpacked.
    Tree,
}

/// How many of a file's first bytes [`identify`] wants to see.
pub(super) const HEAD_BYTES: usize = 8192;

/// What was expected of a file's content and what was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub expected: String,
    pub found: String,
}

/// What a downloaded file is, and the name that it goes by: its extension says what its content is.
///
/// `head` is the file's beginning. A [`Form::Tree`] is a zip that is yet to be unpacked.
pub(super) fn identify(name: &FileName, head: &[u8]) -> Result<(Form, FileName), Mismatch> {
    let mismatch = |expected: &str| Mismatch { expected: expected.into(), found: describe(head) };
    let Some(extension) = name.extension else {
        let (form, extension) = if is_elf(head) {
            (Form::SharedObject, Extension::So)
        } else if is_class(head) {
            (Form::Class, Extension::Class)
        } else if is_zip(head) && has_manifest_first(head) {
            (Form::Jar, Extension::Jar)
        } else if is_zip(head) {
            (Form::Tree, Extension::Zip)
        } else {
            return Err(mismatch(
                "a shared object, zip, jar or class, or a URL that ends in .so, .zip, .jar, .class, .py, .js, .mjs or .cjs",
            ));
        };
        checked_elf(form, head)?;
        return Ok((form, FileName { extension: Some(extension), ..name.clone() }));
    };
    let (form, fits, expected) = match extension {
        Extension::So => (Form::SharedObject, is_elf(head), "an ELF shared object (.so)"),
        Extension::Zip => (Form::Tree, is_zip(head), "a zip archive (.zip)"),
        Extension::Jar => (Form::Jar, is_zip(head), "a jar, which is a zip archive (.jar)"),
        Extension::Class => (Form::Class, is_class(head), "a compiled Java class (.class)"),
        Extension::Py => (Form::Python, is_source(head), "Python source text (.py)"),
        Extension::Js | Extension::Mjs | Extension::Cjs => {
            (Form::JavaScript, is_source(head), "JavaScript source text (.js, .mjs, .cjs)")
        }
    };
    if !fits {
        return Err(mismatch(expected));
    }
    checked_elf(form, head)?;
    Ok((form, name.clone()))
}

/// Where in an unpacked zip the code lies: form, root and the file to load. `stem` is the zip's own name without `.zip`.
///
/// A zip that holds a shared object of its own name is that shared object; so is one that holds nothing else. Where
/// everything lies in one folder that is evidently a project's (`repository-main/`), that folder is the root.
/// A folder that is part of the code's own names (a Python package, `com/` of Java) stays below the root.
pub(super) fn resolve_tree(unpacked: &Path, stem: &str) -> io::Result<(Form, PathBuf, Option<PathBuf>)> {
    let mut root = unpacked.to_owned();
    if let Some(object) = own_object(&root, stem)? {
        return Ok((Form::SharedObject, root, Some(object)));
    }
    if let [only] = &listed(&root)?[..]
        && only.is_dir()
    {
        if let Some(object) = own_object(only, stem)? {
            return Ok((Form::SharedObject, only.clone(), Some(object)));
        }
        if is_project(only)? {
            root = only.clone();
        }
    }
    Ok((Form::Tree, root, None))
}

/// The shared object `STEM.so` or `libSTEM.so` in a folder, or any if it is the only thing there.
fn own_object(folder: &Path, stem: &str) -> io::Result<Option<PathBuf>> {
    let mut candidates = vec![folder.join(format!("{stem}.so")), folder.join(format!("lib{stem}.so"))];
    if let [only] = &listed(folder)?[..]
        && only.extension().is_some_and(|extension| extension == "so")
    {
        candidates.push(only.clone());
    }
    for candidate in candidates {
        if candidate.is_file() && is_elf(&head(&candidate)?) {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The first bytes of a file.
pub(super) fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// What a folder holds, without what macOS adds to archives.
fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths: io::Result<Vec<PathBuf>> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    Ok(paths?
        .into_iter()
        .filter(|path| !path.ends_with("__MACOSX") && !path.ends_with(".DS_Store"))
        .collect())
}

fn is_project(folder: &Path) -> io::Result<bool> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    if folder.join("__init__.py").exists() || ["META-INF", "node_modules"].contains(&&*name) {
        return Ok(false);
    }
    let is_identifier =
        name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(char::is_numeric);
    let marks = [
        "main.py",
        "index.js",
        "index.mjs",
        "index.cjs",
        "package.json",
        "pyproject.toml",
        "requirements.txt",
        "pom.xml",
    ];
    Ok(!is_identifier
        || marks.iter().any(|mark| folder.join(mark).is_file())
        || listed(folder)?.iter().any(|path| path.extension().is_some_and(|extension| extension == "jar")))
}

fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

fn is_zip(head: &[u8]) -> bool {
    // A local file header, or the end record of an empty archive.
    head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06")
}

/// The jar tool puts `META-INF/` first; a local file header's name begins at byte 30.
fn has_manifest_first(head: &[u8]) -> bool {
    head.get(30..).is_some_and(|name| name.starts_with(b"META-INF/"))
}

fn is_class(head: &[u8]) -> bool {
    // Mach-O universal binaries share the magic; where they count their few architectures, a class has its version,
    // which is at least 45.
    head.starts_with(&[0xca, 0xfe, 0xba, 0xbe])
        && matches!(head, [_, _, _, _, _, _, a, b, ..] if u16::from_be_bytes([*a, *b]) >= 45)
}

fn is_source(head: &[u8]) -> bool {
    !is_elf(head)
        && !is_zip(head)
        && !head.is_empty()
        && !head.contains(&0)
        && !is_utf16(head)
        && markup(head).is_none()
}

fn is_utf16(head: &[u8]) -> bool {
    head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff])
}

fn markup(head: &[u8]) -> Option<&'static str> {
    let start = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins =
        |text: &str| start.get(..text.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(text.as_bytes()));
    if begins("<!doctype") || begins("<html") {
        Some("an HTML page")
    } else if begins("<?xml") {
        Some("an XML document")
    } else {
        None
    }
}

/// A shared object must be one that this machine can load.
fn checked_elf(form: Form, head: &[u8]) -> Result<(), Mismatch> {
    if form != Form::SharedObject || elf_header(head) == Some((ELF_SHARED, ELF_MACHINE)) {
        return Ok(());
    }
    Err(Mismatch {
        expected: format!("a shared object for {}", std::env::consts::ARCH),
        found: describe(head),
    })
}

/// `e_type` of a shared object, see elf(5).
const ELF_SHARED: u16 = 3;
/// `e_machine` of this machine, see elf(5).
const ELF_MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// `e_type` and `e_machine` of a 64-bit little-endian ELF file, see elf(5).
fn elf_header(head: &[u8]) -> Option<(u16, u16)> {
    let header = head.get(..20)?;
    (is_elf(header) && header[4] == 2 && header[5] == 1)
        .then(|| (u16::from_le_bytes([header[16], header[17]]), u16::from_le_bytes([header[18], header[19]])))
}

/// What a file's content looks like, in words.
fn describe(head: &[u8]) -> String {
    if is_elf(head) {
        return match elf_header(head) {
            Some((ELF_SHARED, ELF_MACHINE)) => "an ELF shared object".into(),
            Some((kind, ELF_MACHINE)) => format!("an ELF file that is no shared object (type {kind})"),
            Some((_, machine)) => format!("an ELF file for another machine (ELF machine {machine})"),
            None => "an ELF file that is not 64-bit and little-endian, or is cut short".into(),
        };
    }
    let known: [(&[u8], &str); 9] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"\x1f\x8b", "a gzip file"),
        (b"BZh", "a bzip2 file"),
        (b"\xfd7zXZ", "an xz file"),
        (b"7z\xbc\xaf", "a 7z archive"),
        (b"MZ", "a Windows executable"),
        (b"\xcf\xfa\xed\xfe", "a macOS executable"),
        (b"%PDF", "a PDF document"),
    ];
    if head.is_empty() {
        "an empty file".into()
    } else if is_class(head) {
        "a compiled Java class".into()
    } else if let Some((_, words)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
        (*words).into()
    } else if let Some(words) = markup(head) {
        words.into()
    } else if is_utf16(head) {
        "text in UTF-16 (source must be UTF-8)".into()
    } else if head.contains(&0) || head.iter().filter(|byte| **byte < 9).count() > 0 {
        format!("binary data that begins with the bytes {}", hex::encode(&head[..head.len().min(8)]))
    } else {
        let start: String = String::from_utf8_lossy(head).trim().chars().take(40).collect();
        format!("text that begins with {start:?}")
    }
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
