//! Names of an archive's entries: which are accepted, and that no two of them mean one file.
use super::Limits;
use std::{collections::HashMap, path::PathBuf};

/// Why an entry's name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// No name at all, or an empty part (`a//b`).
    #[error("a part of its name is empty")]
    Empty,
    /// A NUL or another control character.
    #[error("its name holds a control character")]
    Control,
    /// Starts with `/`.
    #[error("its name is an absolute path; names must be relative")]
    Absolute,
    /// Starts like `C:`.
    #[error("its name starts with a drive letter; names must be relative")]
    Drive,
    /// Holds a `\`.
    #[error("its name holds a backslash; parts of a path must be separated by `/`")]
    Backslash,
    /// Holds `..`.
    #[error("its name leaves the archive's folder with `..`")]
    Parent,
    /// Longer than [`Limits::path_bytes`], or a part of over 255 bytes.
    #[error("its name is too long; at most {0} bytes are accepted, and 255 in one part")]
    Long(usize),
    /// More parts than [`Limits::depth`].
    #[error("it lies too deep; at most {0} levels are accepted")]
    Deep(usize),
    /// The name of an earlier entry.
    #[error("its name occurs twice")]
    Duplicate,
    /// One name is both a file and a folder.
    #[error("its name is used for a file and for a folder")]
    FileAndFolder,
}

/// The parts of an entry's name, each safe to be a file name of its own. Empty for the archive's root (`./`).
pub(super) fn parts<'a>(name: &'a str, limits: &Limits) -> Result<Vec<&'a str>, NameFault> {
    if name.chars().any(char::is_control) {
        return Err(NameFault::Control);
    }
    if name.contains('\\') {
        return Err(NameFault::Backslash);
    }
    if name.starts_with('/') {
        return Err(NameFault::Absolute);
    }
    if matches!(name.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic()) {
        return Err(NameFault::Drive);
    }
    if name.len() > limits.path_bytes {
        return Err(NameFault::Long(limits.path_bytes));
    }
    let mut parts = Vec::new();
    for part in name.strip_suffix('/').unwrap_or(name).split('/') {
        match part {
            "" => return Err(NameFault::Empty),
            "." => continue,
            ".." => return Err(NameFault::Parent),
            _ if part.len() > 255 => return Err(NameFault::Long(limits.path_bytes)),
            _ => parts.push(part),
        }
    }
    if parts.len() > limits.depth {
        return Err(NameFault::Deep(limits.depth));
    }
    Ok(parts)
}

/// Every name that an archive has used so far, the folders that its files imply included.
#[derive(Default)]
pub(super) struct Names {
    /// Whether it is a folder, by the name. Names that differ in upper and lower case are two, as on the disk: npm has
    /// packages with such files.
    seen: HashMap<String, bool>,
}

impl Names {
    /// Files and folders so far.
    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Takes the next entry; its path relative to the archive's root, unless it clashes with an earlier one.
    pub(super) fn add(&mut self, parts: &[&str], folder: bool) -> Result<PathBuf, NameFault> {
        for end in 1..=parts.len() {
            self.add_one(parts[..end].join("/"), folder || end < parts.len(), end < parts.len())?;
        }
        Ok(parts.iter().collect())
    }

    fn add_one(&mut self, name: String, folder: bool, implied: bool) -> Result<(), NameFault> {
        match self.seen.get(&name) {
            None => {
                self.seen.insert(name, folder);
                Ok(())
            }
            Some(earlier) if *earlier != folder => Err(NameFault::FileAndFolder),
            Some(_) if folder || implied => Ok(()),
            Some(_) => Err(NameFault::Duplicate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_every_way_out() {
        let limits = Limits::default();
        for (name, fault) in [
            ("", NameFault::Empty),
            ("a//b", NameFault::Empty),
            ("/etc/passwd", NameFault::Absolute),
            ("../x", NameFault::Parent),
            ("a/../../x", NameFault::Parent),
            ("a/..", NameFault::Parent),
            ("C:/x", NameFault::Drive),
            ("c:x", NameFault::Drive),
            ("..\\x", NameFault::Backslash),
            ("a\0b", NameFault::Control),
            ("a\nb", NameFault::Control),
        ] {
            assert_eq!(parts(name, &limits), Err(fault), "{name:?}");
        }
        assert_eq!(parts(&"a".repeat(256), &limits), Err(NameFault::Long(1024)));
        assert_eq!(parts(&"a/".repeat(513), &limits), Err(NameFault::Long(1024)));
        assert_eq!(parts(&"a/".repeat(65), &limits), Err(NameFault::Deep(64)));
    }

    #[test]
    fn accepts_ordinary_names() {
        let limits = Limits::default();
        assert_eq!(parts("a/b.py", &limits), Ok(vec!["a", "b.py"]));
        assert_eq!(parts("./a/", &limits), Ok(vec!["a"]));
        assert_eq!(parts("./", &limits), Ok(vec![]));
        assert_eq!(parts("...", &limits), Ok(vec!["..."]));
        assert_eq!(parts("größe/日本.js", &limits), Ok(vec!["größe", "日本.js"]));
    }

    #[test]
    fn finds_clashes() {
        let mut names = Names::default();
        assert_eq!(names.add(&["a", "b"], false), Ok(PathBuf::from("a/b")));
        assert_eq!(names.add(&["a"], true), Ok(PathBuf::from("a")));
        assert_eq!(names.add(&["a", "b"], false), Err(NameFault::Duplicate));
        assert_eq!(names.add(&["a", "B"], false), Ok(PathBuf::from("a/B")));
        assert_eq!(names.add(&["a"], false), Err(NameFault::FileAndFolder));
        assert_eq!(names.add(&["a", "b", "c"], false), Err(NameFault::FileAndFolder));
        assert_eq!(names.len(), 3);
    }

    proptest! {
        #[test]
        fn accepted_names_stay_below_their_folder(name in "[a-zA-Z./\\\\:\0 ]{0,40}") {
            if let Ok(parts) = parts(&name, &Limits::default()) {
                for part in &parts {
                    prop_assert!(!part.is_empty() && *part != "." && *part != ".." && !part.contains(['/', '\0']));
                }
            }
        }
    }
}
