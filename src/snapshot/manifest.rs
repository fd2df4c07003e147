//! `manifest.json`: what a snapshot is of, for Hydra and for people.
//!
//! Its last line holds the checksum of all lines before it, so damage to the manifest itself is found too. A format that is not
//! ours is told from damage: every format has its number in the member `format`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::checksum::Checksum;
use super::error::{Part, Reason};
use super::expected::Expected;
use super::page_runs::PageRuns;
use crate::vmm::Cpu;

/// Number of the format that this Hydra writes and reads: of the manifest and of the files beside it.
pub const FORMAT: u64 = 2;
/// Most bytes of a manifest.
pub const MOST_BYTES: u64 = 256 << 10;
/// Version and build of this Hydra.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " (build ", env!("HYDRA_BUILD"), ")");

/// What is known of a snapshot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u64,
    /// The Hydra that made it; another build may keep a program's state otherwise.
    pub hydra: String,
    /// Its number.
    pub svmid: u64,
    /// The function's name.
    pub function: String,
    /// Its language.
    pub language: String,
    /// See [`Expected::settings`].
    pub settings: BTreeMap<String, String>,
    /// SHA-256 of the function's code.
    pub code_digest: String,
    /// Digest of the runtime and its agent.
    pub runtime_digest: String,
    /// The CPU that it was made on.
    pub cpu: Cpu,
    /// The file `memory`.
    pub memory: MemoryFile,
    /// The file `state`.
    pub state: StateFile,
    /// When it was made.
    #[serde(with = "date")]
    pub created: SystemTime,
    /// How long the program stood still while its memory and state were copied, in microseconds.
    #[serde(rename = "pauseMicroseconds", with = "microseconds")]
    pub pause: Duration,
    /// What it builds upon; none if it is whole by itself.
    pub parent: Option<Parent>,
}

/// The snapshot that another one builds upon, of which it has but the pages that differ.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// Its number.
    pub svmid: u64,
    /// Of its memory, by which it is told from another of that number.
    pub checksum: Checksum,
    /// The pages of the guest's RAM that are those of the file `memory`, zeros included. All others are the parent's.
    pub pages: PageRuns,
}

/// What is known of the guest's RAM.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryFile {
    /// Size of the RAM and of the file, which is sparse.
    pub bytes: u64,
    /// What the program had in use of it.
    pub in_use: u64,
    /// What takes room on the disk: the pages that are not all zeros, and not the parent's.
    pub stored: u64,
    /// Of the file.
    pub checksum: Checksum,
}

/// What is known of the program's state beside its RAM.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct StateFile {
    /// Size of the file.
    pub bytes: u64,
    /// Of the file.
    pub checksum: Checksum,
}

impl Manifest {
    /// The file's content.
    ///
    /// # Errors
    /// It does not fit into [`MOST_BYTES`].
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let json = serde_json::to_string_pretty(self)?;
        let body = json.strip_suffix(END).unwrap_or(&json);
        let text = format!("{body}{CHECKSUM}{}\"{END}\n", Checksum::of_bytes(body.as_bytes()));
        if text.len() as u64 > MOST_BYTES {
            return Err(serde::ser::Error::custom("the manifest is too long"));
        }
        Ok(text)
    }

    /// Reads what [`Manifest::to_text`] wrote.
    ///
    /// # Errors
    /// It is damaged, or of another format or build.
    pub fn parse(text: &[u8]) -> Result<Manifest, Reason> {
        let damaged = |how: String| Reason::Damaged { part: Part::Manifest, how };
        if let Some(found) =
            serde_json::from_slice(text).ok().map(|head: Head| head.format).filter(|f| *f != FORMAT)
        {
            return Err(Reason::Format { found, read: FORMAT });
        }
        let text = std::str::from_utf8(text).map_err(|_| damaged("it is not UTF-8".into()))?;
        let body = checked(text).ok_or_else(|| damaged("its checksum does not match".into()))?;
        let manifest: Manifest =
            serde_json::from_str(&format!("{body}{END}")).map_err(|error| damaged(error.to_string()))?;
        if manifest.hydra != BUILD {
            return Err(Reason::Build { was: manifest.hydra, is: BUILD.into() });
        }
        Ok(manifest)
    }
}

impl Expected {
    /// The manifest of a snapshot of this.
    pub(super) fn manifest(
        &self,
        cpu: Cpu,
        memory: MemoryFile,
        state: StateFile,
        pause: Duration,
        parent: Option<Parent>,
    ) -> Manifest {
        Manifest {
            format: FORMAT,
            hydra: BUILD.into(),
            svmid: self.svmid,
            function: self.function.clone(),
            language: self.language.clone(),
            settings: self.settings.clone(),
            code_digest: self.code.clone(),
            runtime_digest: self.runtime.clone(),
            cpu,
            memory,
            state,
            created: SystemTime::now(),
            pause,
            parent,
        }
    }
}

/// What every format has.
#[derive(Deserialize)]
struct Head {
    format: u64,
}

/// What stands between the last member and its checksum, and what ends the object.
const CHECKSUM: &str = ",\n  \"checksum\": \"";
const END: &str = "\n}";

/// What stands before the checksum, if that is the right one.
fn checked(text: &str) -> Option<&str> {
    let (body, tail) = text.rsplit_once(CHECKSUM)?;
    let checksum: Checksum = tail.strip_suffix("\"\n}\n")?.parse().ok()?;
    (checksum == Checksum::of_bytes(body.as_bytes())).then_some(body)
}

mod date {
    //! A time as people write it, to the second, in UTC.

    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

mod microseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::XsaveLayout;
    use proptest::prelude::*;

    fn manifest() -> Manifest {
        let parent = Parent {
            svmid: 12,
            checksum: Checksum::of_bytes(b"parent"),
            pages: PageRuns::new(vec![0x1000..0x3000, 0x9000..0xa000]),
        };
        let expected = Expected {
            svmid: 7,
            function: "hello \"world\",\n  \"checksum\": \"".into(),
            language: "python".into(),
            settings: [("entry point".to_owned(), "main".to_owned())].into(),
            code: "ab".repeat(32),
            runtime: "cd".repeat(32),
            memory: 512 << 20,
        };
        let cpu = Cpu {
            vendor: "GenuineIntel".into(),
            features: vec!["avx".into()],
            xsave: XsaveLayout { features: 7, size: 832 },
            components: vec![(576, 256)],
        };
        let checksum = Checksum::of_bytes(b"");
        let memory = MemoryFile { bytes: 512 << 20, in_use: 20 << 20, stored: 18 << 20, checksum };
        let state = StateFile { bytes: 1234, checksum };
        let mut manifest = expected.manifest(cpu, memory, state, Duration::from_micros(1234), Some(parent));
        manifest.created = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        manifest
    }

    #[test]
    fn what_is_written_is_read() {
        let text = manifest().to_text().unwrap();
        assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), manifest());
        assert!(text.contains("\"created\": \"2027-01-15T08:00:00Z\""), "{text}");
        // Other programs can read it too.
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["svmid"], &value["memory"]["inUse"]), (&7.into(), &(20 << 20).into()));
        assert_eq!(value["parent"]["pages"], "1+2 9+1");
    }

    #[test]
    fn another_format_is_told_from_damage() {
        for found in [0, 1, 3, u64::MAX] {
            let text = format!("{{\"format\": {found}, \"what\": [\"ever\"]}}");
            let reason = Manifest::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(reason, Reason::Format { found: f, read: FORMAT } if f == found), "{reason}");
        }
        for damage in ["", "{", "[]", "{\"format\": -1}", "{\"format\": 2}", "\u{feff}{}"] {
            let reason = Manifest::parse(damage.as_bytes()).unwrap_err();
            assert!(matches!(reason, Reason::Damaged { part: Part::Manifest, .. }), "{damage}: {reason}");
        }
    }

    #[test]
    fn another_build_is_refused() {
        let other = Manifest { hydra: "0.0.9 (build 1)".into(), ..manifest() };
        let reason = Manifest::parse(other.to_text().unwrap().as_bytes()).unwrap_err();
        assert_eq!(reason.to_string(), format!("Hydra 0.0.9 (build 1) made it, and this is {BUILD}"));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let text = manifest().to_text().unwrap().into_bytes();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[at] ^= 1 << bit;
                assert!(Manifest::parse(&damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
        for len in 0..text.len() {
            assert!(Manifest::parse(&text[..len]).is_err(), "cut to {len} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            prop_assert!(Manifest::parse(&bytes).is_err());
        }

        #[test]
        fn any_text_survives(function in ".{0,100}", key in ".{0,20}", value in ".{0,20}") {
            let written = Manifest { function, settings: [(key, value)].into(), ..manifest() };
            prop_assert_eq!(Manifest::parse(written.to_text().unwrap().as_bytes()).unwrap(), written);
        }
    }
}
