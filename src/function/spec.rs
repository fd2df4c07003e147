//! A function's specification: what a client says at `/register`, checked.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::store::shown;

/// Longest name, in bytes.
const MAX_NAME: usize = 128;
/// Memory that a function may be given, in MiB.
const MEMORY: std::ops::RangeInclusive<u32> = 16..=65_536;
/// Time that an invocation may be given, in milliseconds.
const TIMEOUT: std::ops::RangeInclusive<u64> = 1..=3_600_000;
/// Sandboxes that a function may have.
const CONCURRENCY: std::ops::RangeInclusive<u32> = 1..=10_000;

/// The languages of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// `java`
    Java,
    /// `javascript`
    JavaScript,
    /// `python`
    Python,
}

/// The kinds of sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxKind {
    /// An isolate of the language, in a host process that many functions share.
    Isolate,
    /// A jailed process of its own.
    Process,
    /// A microVM that is restored from a snapshot.
    Snapshot,
    /// The same in a jailed process.
    SnapshotProcess,
}

impl SandboxKind {
    /// Its name, as in requests and metrics.
    pub fn name(self) -> &'static str {
        match self {
            SandboxKind::Isolate => "isolate",
            SandboxKind::Process => "process",
            SandboxKind::Snapshot => "snapshot",
            SandboxKind::SnapshotProcess => "snapshot-process",
        }
    }

    /// Whether such a sandbox is restored from a snapshot of its function.
    pub fn has_snapshots(self) -> bool {
        matches!(self, SandboxKind::Snapshot | SandboxKind::SnapshotProcess)
    }
}

impl fmt::Display for SandboxKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What requests share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A sandbox serves one request after the other.
    #[default]
    Sandbox,
    /// Every request finds a sandbox that has served nobody, as if all asked for a fresh one.
    Request,
}

/// The query of `/register`, as it came.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Query {
    name: Option<String>,
    url: Option<String>,
    #[serde(alias = "entrypoint")]
    entry_point: Option<String>,
    language: Option<String>,
    sandbox: Option<String>,
    svmid: Option<String>,
    isolation: Option<String>,
    memory: Option<String>,
    timeout: Option<String>,
    concurrency: Option<String>,
}

/// What a function has when its client does not say.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Memory, in MiB.
    pub memory: u32,
    /// Time of an invocation.
    pub timeout: Duration,
    /// Most sandboxes.
    pub concurrency: u32,
}

/// A function's specification. Registering an equal one again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Where its code is downloaded from.
    #[serde(serialize_with = "without_user")]
    pub url: String,
    /// What is called in the code; none asks for the language's default.
    pub entry_point: Option<String>,
    /// Its language.
    pub language: Language,
    /// Where it runs.
    pub sandbox: SandboxKind,
    /// The number of its snapshot; of the snapshot kinds only.
    pub svmid: u64,
    /// What its requests share.
    pub isolation: Isolation,
    /// Memory that it may use, in MiB.
    pub memory: u32,
    /// Time that an invocation may take.
    #[serde(serialize_with = "milliseconds")]
    pub timeout: Duration,
    /// Most sandboxes at a time.
    pub concurrency: u32,
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

/// Others are not shown how its code is come by.
fn without_user<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match reqwest::Url::parse(url) {
        Ok(parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            serializer.serialize_str(&shown(&parsed))
        }
        _ => serializer.serialize_str(url),
    }
}

/// A parameter that is missing or wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It must be there.
    #[error("the parameter '{0}' is missing: {1}")]
    Missing(&'static str, &'static str),
    /// Its value will not do.
    #[error("the parameter '{parameter}' is '{value}', but must be {expected}")]
    Wrong {
        /// Its name.
        parameter: &'static str,
        /// What came, shortened.
        value: String,
        /// What would be right.
        expected: String,
    },
}

impl Query {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first that is missing or wrong, with what would be right.
    pub fn check(self, defaults: Defaults) -> Result<Spec, SpecError> {
        let name = present(self.name, "name", "a name of the function to register")?;
        check_name(&name)?;
        let url = present(self.url, "url", "the http or https URL of the function's code")?;
        match reqwest::Url::parse(&url) {
            Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => {}
            _ => return Err(wrong("url", &url, "an http or https URL")),
        }
        let language = present(self.language, "language", "java, javascript or python")?;
        let language = match language.to_ascii_lowercase().as_str() {
            "java" => Language::Java,
            "javascript" => Language::JavaScript,
            "python" => Language::Python,
            _ => return Err(wrong("language", &language, "java, javascript or python")),
        };
        let sandbox = match self.sandbox.as_deref() {
            None | Some("" | "default" | "isolate") => SandboxKind::Isolate,
            Some("process") => SandboxKind::Process,
            Some("snapshot") => SandboxKind::Snapshot,
            Some("snapshot-process") => SandboxKind::SnapshotProcess,
            Some(other) => {
                return Err(wrong("sandbox", other, "isolate, process, snapshot or snapshot-process"));
            }
        };
        let isolation = match self.isolation.as_deref() {
            None | Some("" | "sandbox") => Isolation::Sandbox,
            Some("request") => Isolation::Request,
            Some(other) => return Err(wrong("isolation", other, "sandbox or request")),
        };
        let entry_point = self.entry_point.filter(|entry| !entry.is_empty());
        if let Some(entry) = &entry_point
            && (entry.len() > 1024 || entry.chars().any(char::is_control))
        {
            return Err(wrong("entryPoint", entry, "a name of at most 1024 printable bytes"));
        }
        let timeout_default = defaults.timeout.as_millis() as u64;
        Ok(Spec {
            name,
            url,
            entry_point,
            language,
            sandbox,
            svmid: number("svmid", self.svmid, 0, 0..=u64::from(u32::MAX))?,
            isolation,
            memory: number("memory", self.memory, defaults.memory, MEMORY)?,
            timeout: Duration::from_millis(number("timeout", self.timeout, timeout_default, TIMEOUT)?),
            concurrency: number("concurrency", self.concurrency, defaults.concurrency, CONCURRENCY)?,
        })
    }
}

fn check_name(name: &str) -> Result<(), SpecError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(wrong("name", name, "letters, digits, '-', '_' and '.', at most 128 of them"));
    }
    Ok(())
}

fn present(value: Option<String>, name: &'static str, what: &'static str) -> Result<String, SpecError> {
    value.filter(|value| !value.is_empty()).ok_or(SpecError::Missing(name, what))
}

fn number<T>(
    parameter: &'static str,
    value: Option<String>,
    default: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, SpecError>
where
    T: std::str::FromStr + PartialOrd + fmt::Display,
{
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(default) };
    match value.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let expected = format!("a whole number from {} to {}", range.start(), range.end());
            Err(wrong(parameter, &value, expected))
        }
    }
}

fn wrong(parameter: &'static str, value: &str, expected: impl Into<String>) -> SpecError {
    let value: String = value.chars().filter(|c| !c.is_control()).take(100).collect();
    SpecError::Wrong { parameter, value, expected: expected.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEFAULTS: Defaults = Defaults { memory: 512, timeout: Duration::from_secs(60), concurrency: 8 };

    fn query(change: impl FnOnce(&mut Query)) -> Result<Spec, SpecError> {
        let mut query = Query {
            name: Some("f".into()),
            url: Some("http://localhost/f.py".into()),
            language: Some("python".into()),
            ..Query::default()
        };
        change(&mut query);
        query.check(DEFAULTS)
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let spec = query(|_| {}).unwrap();
        assert_eq!(spec.sandbox, SandboxKind::Isolate);
        assert_eq!(
            (spec.memory, spec.timeout, spec.concurrency, spec.svmid),
            (512, Duration::from_secs(60), 8, 0)
        );
        assert_eq!(spec.entry_point, None);
    }

    #[test]
    fn user_and_password_of_the_url_are_not_shown() {
        let spec = query(|q| q.url = Some("http://me:secret@localhost/f.py?v=1".into())).unwrap();
        assert!(spec.url.contains("me:secret@"), "they are needed to download it");
        assert_eq!(serde_json::to_value(&spec).unwrap()["url"], "http://localhost/f.py?v=1");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let error = |change: fn(&mut Query)| query(change).unwrap_err().to_string();
        assert!(error(|q| q.name = None).contains("'name' is missing"));
        assert!(error(|q| q.name = Some("a/b".into())).contains("'name' is 'a/b'"));
        assert!(error(|q| q.url = Some("ftp://x/y".into())).contains("an http or https URL"));
        assert!(error(|q| q.language = Some("cobol".into())).contains("java, javascript or python"));
        assert!(error(|q| q.sandbox = Some("jail".into())).contains("isolate, process, snapshot"));
        assert!(error(|q| q.svmid = Some("-1".into())).contains("a whole number from 0 to"));
        assert!(error(|q| q.memory = Some("1".into())).contains("from 16 to 65536"));
        assert!(error(|q| q.timeout = Some("1s".into())).contains("from 1 to 3600000"));
        assert!(error(|q| q.isolation = Some("none".into())).contains("sandbox or request"));
        assert!(error(|q| q.concurrency = Some("0".into())).contains("from 1 to 10000"));
    }

    proptest! {
        #[test]
        fn no_value_panics(name in ".*", url in ".*", number in ".*") {
            let _ = query(|q| {
                q.name = Some(name);
                q.url = Some(url);
                q.memory = Some(number.clone());
                q.timeout = Some(number);
            });
        }
    }
}
