//! A loaded function: from the text of `INVOKE` to the text of `RESULT`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::arguments;
use crate::graal::{Isolate, TearDownError};
use crate::messages::{Failure, Load};
use crate::process;
use crate::result_buffer::ResultBuffer;

/// A function in its isolate. It stays on the thread that loaded it.
pub struct Function {
    isolate: Isolate,
    result: ResultBuffer,
    max_result: usize,
    /// As a JSON string, quotes included.
    tmp_dir: String,
}

impl Function {
    /// Finds the shared object, loads it and makes its isolate.
    pub fn load(load: &Load) -> Result<Self, Failure> {
        let path = shared_object(&load.code, &load.name)?;
        let result = ResultBuffer::new(load.max_result).map_err(|error| {
            Failure::new(
                "LoadError",
                format!("cannot reserve {} bytes for results: {error}", load.max_result),
            )
        })?;
        let entry_point = load.entry_point.as_deref().filter(|name| !name.is_empty());
        let isolate = Isolate::create(&path, entry_point)
            .map_err(|error| Failure::new("LoadError", error.to_string()))?;
        let tmp_dir = serde_json::Value::from(load.tmp_dir.as_str()).to_string();
        Ok(Function { isolate, result, max_result: load.max_result, tmp_dir })
    }

    /// Invokes the function, and hands its result to `answer` without a copy.
    pub fn invoke<T>(&mut self, text: &str, answer: impl FnOnce(Result<&str, Failure>) -> T) -> T {
        let arguments = match arguments::for_function(text, &self.tmp_dir) {
            Ok(arguments) => arguments,
            Err(error) => return answer(Err(Failure::new("InvalidArguments", error.to_string()))),
        };
        self.isolate.call(&arguments, &mut self.result);
        process::flush_stdout();
        let answered = answer(self.checked_result());
        self.result.clear();
        answered
    }

    /// Calls the function's hook for when it is about to be checkpointed, if it has one.
    pub fn before_checkpoint(&mut self) {
        self.isolate.before_checkpoint();
        process::flush_stdout();
    }

    /// Calls the function's hook for when it goes on from a checkpoint, if it has one.
    pub fn after_restore(&mut self) {
        self.isolate.after_restore();
        process::flush_stdout();
    }

    /// Ends the function's isolate.
    pub fn tear_down(self) -> Result<(), TearDownError> {
        self.isolate.tear_down()
    }

    fn checked_result(&self) -> Result<&str, Failure> {
        let written = self.result.written().ok_or_else(|| {
            let message = format!(
                "the function filled the result's {} bytes without a terminating NUL: at most {} bytes may be returned",
                self.max_result.saturating_add(1),
                self.max_result
            );
            Failure::new("ResultTooLarge", message)
        })?;
        std::str::from_utf8(written).map_err(|error| {
            let message = format!(
                "the function's result is not UTF-8: byte {} is the first wrong one",
                error.valid_up_to()
            );
            Failure::new("InvalidResult", message)
        })
    }
}

/// The shared object that `code` names: the file itself; or the one in the directory of an unpacked archive.
/// Among several it is the one named as the directory or as the function, for the others are its libraries.
fn shared_object(code: &Path, function: &str) -> Result<PathBuf, Failure> {
    let cannot_read =
        |error| Failure::new("LoadError", format!("cannot read the code at {}: {error}", code.display()));
    if !std::fs::metadata(code).map_err(cannot_read)?.is_dir() {
        return Ok(code.into());
    }
    let mut candidates = Vec::new();
    for entry in std::fs::read_dir(code).map_err(cannot_read)? {
        let path = entry.map_err(cannot_read)?.path();
        if path.extension() == Some(OsStr::new("so")) {
            candidates.push(path);
        }
    }
    let named = |name: &OsStr| candidates.iter().find(|path| path.file_stem() == Some(name));
    let found = match candidates.as_slice() {
        [only] => Some(only),
        _ => code.file_name().and_then(named).or_else(|| named(OsStr::new(function))),
    };
    found.cloned().ok_or_else(|| {
        let message = format!(
            "{} holds {} shared objects (.so): exactly one, or one named as the archive or as the function {function}, is needed",
            code.display(),
            candidates.len()
        );
        Failure::new("LoadError", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_shared_object_of_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let code = directory.path().join("archive");
        std::fs::create_dir(&code).unwrap();
        let add = |name: &str| std::fs::write(code.join(name), "").unwrap();

        let failure = shared_object(&code, "f").unwrap_err();
        assert!(format!("{failure:?}").contains("holds 0 shared objects"), "{failure:?}");
        add("any.so");
        add("libz.so.1");
        assert_eq!(shared_object(&code, "f").unwrap(), code.join("any.so"));
        add("other.so");
        assert!(shared_object(&code, "f").is_err());
        add("f.so");
        assert_eq!(shared_object(&code, "f").unwrap(), code.join("f.so"));
        add("archive.so");
        assert_eq!(shared_object(&code, "f").unwrap(), code.join("archive.so"));
    }

    #[test]
    fn takes_a_file_as_it_is_and_names_a_missing_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(shared_object(file.path(), "f").unwrap(), file.path());
        let failure = shared_object(Path::new("/nowhere/f.so"), "f").unwrap_err();
        assert!(format!("{failure:?}").contains("/nowhere/f.so"), "{failure:?}");
    }
}
