//! The example functions of `examples/`, as their `functions.json` describe them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Every example function, by language and in the order of its file.
///
/// # Errors
/// Where a `functions.json` cannot be read or is not what `examples/README.md` says.
pub fn examples() -> Result<Vec<Example>, ExamplesError> {
    examples_in(&crate::paths::root().join("examples"))
}

/// Every example function below `folder`, which holds a folder for each language.
///
/// # Errors
/// As [`examples`].
pub fn examples_in(folder: &Path) -> Result<Vec<Example>, ExamplesError> {
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |source| ExamplesError::Read { path, source }
    };
    let mut languages = Vec::new();
    for entry in fs::read_dir(folder).map_err(read_error(folder))? {
        let list = entry.map_err(read_error(folder))?.path().join("functions.json");
        if list.is_file() {
            languages.push(list);
        }
    }
    languages.sort();
    let mut all = Vec::new();
    for list in languages {
        let text = fs::read_to_string(&list).map_err(read_error(&list))?;
        let functions: Vec<Example> = serde_json::from_str(&text)
            .map_err(|source| ExamplesError::Format { path: list.clone(), source })?;
        let language = list.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        all.extend(functions.into_iter().map(|f| Example { language: language.to_string(), ..f }));
    }
    Ok(all)
}

/// One example function.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// The name to register under, e.g. `python-bfs`.
    pub name: String,
    /// Its language: the name of its folder.
    #[serde(skip)]
    pub language: String,
    /// The file in `target/examples/`.
    pub artifact: String,
    /// As registered.
    pub entry_point: Option<String>,
    /// The arguments of an ordinary call; `{base}` stands for the code server's URL.
    #[serde(rename = "arguments")]
    arguments_template: Value,
    /// What the result must hold.
    expect: Value,
}

impl Example {
    /// The arguments of an ordinary call, as the JSON text that a client sends, with the code server at `base`.
    pub fn arguments(&self, base: &str) -> String {
        with_base(&self.arguments_template, base).to_string()
    }

    /// Compares a result with what is expected of it.
    ///
    /// # Errors
    /// The place and both values, where they differ.
    pub fn check(&self, result: &str, base: &str) -> Result<(), Mismatch> {
        let expect = with_base(&self.expect, base);
        // A string is answered as it is, anything else as JSON text.
        let found = match &expect {
            Value::String(_) => Value::String(result.to_owned()),
            _ => serde_json::from_str(result).unwrap_or_else(|_| Value::String(result.to_owned())),
        };
        compare(&expect, &found, "result")
    }
}

/// A list of functions that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExamplesError {
    /// A file or folder that cannot be read.
    #[error("cannot read the examples' {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not a list of functions.
    #[error("{path} is not a list of functions as examples/README.md describes it: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        source: serde_json::Error,
    },
}

/// A result that is not what was expected.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{place} is {found}, expected {expected}")]
pub struct Mismatch {
    /// Which part of the result, e.g. `result.size.width`.
    pub place: String,
    /// The expected value as JSON.
    pub expected: String,
    /// The value found, as JSON, shortened; or `missing`.
    pub found: String,
}

/// A copy of `value` with `{base}` in each string replaced.
fn with_base(value: &Value, base: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("{base}", base)),
        Value::Array(items) => items.iter().map(|item| with_base(item, base)).collect(),
        Value::Object(members) => members.iter().map(|(k, v)| (k.clone(), with_base(v, base))).collect(),
        other => other.clone(),
    }
}

/// Objects hold at least the members that are expected; anything else is equal.
fn compare(expected: &Value, found: &Value, place: &str) -> Result<(), Mismatch> {
    let differ = |found: &str| {
        Err(Mismatch {
            place: place.to_owned(),
            expected: expected.to_string(),
            found: shortened(found, 400),
        })
    };
    match (expected, found) {
        (Value::Object(expected), Value::Object(members)) => {
            for (key, value) in expected {
                let place = format!("{place}.{key}");
                let Some(member) = members.get(key) else {
                    return Err(Mismatch { place, expected: value.to_string(), found: "missing".into() });
                };
                compare(value, member, &place)?;
            }
            Ok(())
        }
        (Value::Array(wanted), Value::Array(items)) if wanted.len() == items.len() => wanted
            .iter()
            .zip(items)
            .enumerate()
            .try_for_each(|(index, (wanted, item))| compare(wanted, item, &format!("{place}[{index}]"))),
        // 1 and 1.0 are one number: which of them is written is up to the language.
        (Value::Number(a), Value::Number(b)) if a == b || a.as_f64() == b.as_f64() => Ok(()),
        _ if expected == found => Ok(()),
        _ => differ(&found.to_string()),
    }
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn example(expect: Value) -> Example {
        Example {
            name: "e".into(),
            language: "python".into(),
            artifact: "e.zip".into(),
            entry_point: None,
            arguments_template: json!({"url": "{base}/data/x", "n": [1, "{base}"]}),
            expect,
        }
    }

    #[test]
    fn the_base_is_put_in_at_any_depth() {
        let arguments: Value = serde_json::from_str(&example(Value::Null).arguments("http://h:1")).unwrap();
        assert_eq!(arguments, json!({"url": "http://h:1/data/x", "n": [1, "http://h:1"]}));
    }

    #[test]
    fn objects_are_compared_as_subsets_at_any_depth() {
        let e = example(json!({"a": {"b": 1}, "from": "{base}"}));
        e.check(r#"{"a": {"b": 1.0, "c": 2}, "from": "http://h", "more": []}"#, "http://h").unwrap();
        let wrong = e.check(r#"{"a": {"b": 2}, "from": "http://h"}"#, "http://h").unwrap_err();
        assert_eq!(wrong.to_string(), "result.a.b is 2, expected 1");
        let missing = e.check(r#"{"a": {}}"#, "").unwrap_err();
        assert_eq!(missing.to_string(), "result.a.b is missing, expected 1");
        assert!(e.check("not JSON", "").is_err());
    }

    #[test]
    fn strings_and_arrays_are_compared_whole() {
        example(json!("42")).check("42", "").unwrap();
        assert!(example(json!("42")).check("\"42\"", "").is_err());
        example(json!([1, 2])).check("[1, 2]", "").unwrap();
        assert!(example(json!([1, 2])).check("[1, 2, 3]", "").is_err());
        assert!(example(json!([1, 2])).check("[1, 3]", "").is_err());
        assert!(example(json!(true)).check("1", "").is_err());
    }

    #[test]
    fn lists_are_read_from_a_folder_of_languages() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("python")).unwrap();
        fs::create_dir(folder.path().join("notes")).unwrap();
        let list = folder.path().join("python/functions.json");
        let function =
            json!({"name": "n", "artifact": "n.zip", "entryPoint": "m.f", "arguments": {}, "expect": {}});
        fs::write(&list, json!([function]).to_string()).unwrap();
        let found = examples_in(folder.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].language, "python");
        assert_eq!(found[0].entry_point.as_deref(), Some("m.f"));

        fs::write(&list, r#"[{"name": "n"}]"#).unwrap();
        let error = examples_in(folder.path()).unwrap_err().to_string();
        assert!(error.contains("functions.json") && error.contains("artifact"), "{error}");
    }
}
