//! The text that a function gets: the client's, with `tmpDir` added where it is a JSON object.

use std::borrow::Cow;
use std::ffi::CString;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

/// Arguments that cannot be handed to C.
#[derive(Debug, Error)]
#[error(
    "the arguments hold a NUL character at byte {0}, where C text ends: leave it out, or write it as \\u0000 in JSON"
)]
pub struct EmbeddedNul(usize);

/// The text for the function. Values keep their spelling and members their order: only one level is parsed.
/// `tmp_dir` is the directory's path as a JSON string, quotes included.
pub fn for_function(text: &str, tmp_dir: &str) -> Result<CString, EmbeddedNul> {
    let text = if text.is_empty() { "{}" } else { text };
    let with_tmp_dir = if text.trim_start_matches(JSON_SPACE).starts_with('{') {
        // Text that only looks like an object is not JSON, and goes to the function as it came.
        serde_json::from_str::<Members>(text).ok().map(|members| members.with_tmp_dir(text.len(), tmp_dir))
    } else {
        None
    };
    let text = with_tmp_dir.unwrap_or_else(|| text.to_owned());
    CString::new(text).map_err(|error| EmbeddedNul(error.nul_position()))
}

/// What RFC 8259 calls whitespace.
const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// A JSON object's members in order, their values unparsed.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl Members<'_> {
    fn with_tmp_dir(&self, length: usize, tmp_dir: &str) -> String {
        let mut text = String::with_capacity(length + tmp_dir.len() + 16);
        text.push('{');
        for (key, value) in self.0.iter().filter(|(key, _)| key != "tmpDir") {
            // `Value`'s display is the JSON string, escapes included.
            text.push_str(&serde_json::Value::from(key.as_ref()).to_string());
            text.push(':');
            text.push_str(value.get());
            text.push(',');
        }
        text.push_str("\"tmpDir\":");
        text.push_str(tmp_dir);
        text.push('}');
        text
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}

/// A member's name, borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(arguments: &str) -> String {
        for_function(arguments, "\"/tmp/x\"").unwrap().into_string().unwrap()
    }

    #[test]
    fn adds_the_directory_to_an_object() {
        assert_eq!(text("{}"), r#"{"tmpDir":"/tmp/x"}"#);
        assert_eq!(text(""), r#"{"tmpDir":"/tmp/x"}"#);
        assert_eq!(text(r#" { "b": 1, "a": [ 2 ] } "#), r#"{"b":1,"a":[ 2 ],"tmpDir":"/tmp/x"}"#);
    }

    #[test]
    fn replaces_the_clients_directory() {
        assert_eq!(text(r#"{"tmpDir": "/etc", "a": 1}"#), r#"{"a":1,"tmpDir":"/tmp/x"}"#);
        assert_eq!(text(r#"{"tmp\u0044ir": "/etc"}"#), r#"{"tmpDir":"/tmp/x"}"#);
    }

    #[test]
    fn keeps_numbers_and_escapes_as_they_were_written() {
        let numbers =
            r#"{"n":123456789012345678901234567890,"f":1.10e+2,"s":"\u00e9\ud83d","tmpDir":"/tmp/x"}"#;
        assert_eq!(text(r#"{"n":123456789012345678901234567890,"f":1.10e+2,"s":"\u00e9\ud83d"}"#), numbers);
        assert_eq!(text(r#"{"a\n\"":1}"#), r#"{"a\n\"":1,"tmpDir":"/tmp/x"}"#);
    }

    #[test]
    fn leaves_other_text_alone() {
        for other in ["[1, 2]", "\"text\"", "12", " null", "not JSON", "{broken", "{} trailing", "{\"a\":01}"]
        {
            assert_eq!(text(other), other);
        }
    }

    #[test]
    fn refuses_a_nul() {
        let error = for_function("a\0b", "\"\"").unwrap_err();
        assert!(error.to_string().contains("at byte 1"), "{error}");
        assert!(for_function(r#"{"a":"\u0000"}"#, "\"\"").is_ok());
    }

    #[test]
    fn takes_deep_nesting() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(text(&deep).ends_with(",\"tmpDir\":\"/tmp/x\"}"));
    }

    proptest! {
        #[test]
        fn an_object_keeps_its_members(members in proptest::collection::btree_map(".*", any::<i64>(), 0..6)) {
            let object = serde_json::to_string(&members).unwrap();
            let mut expected = serde_json::to_value(&members).unwrap();
            expected["tmpDir"] = "/tmp/x".into();
            let given: serde_json::Value = serde_json::from_str(&text(&object)).unwrap();
            prop_assert_eq!(given, expected);
        }

        #[test]
        fn any_text_is_taken(arguments in "[^\0]*") {
            let _ = text(&arguments);
        }
    }
}
