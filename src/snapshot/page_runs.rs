//! Runs of pages, as a manifest names them.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::vmm::FRAME_SIZE;

/// Runs of pages of the guest's RAM, in order; as text `FIRST+COUNT` each, in hexadecimal, by the pages' numbers.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PageRuns(Vec<Range<u64>>);

impl PageRuns {
    /// Of guest-physical byte ranges, which are of whole pages.
    pub(super) fn new(ranges: Vec<Range<u64>>) -> PageRuns {
        PageRuns(ranges)
    }

    /// The guest-physical byte ranges.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

impl fmt::Display for PageRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, run) in self.0.iter().enumerate() {
            let (first, count) = (run.start / FRAME_SIZE, (run.end - run.start) / FRAME_SIZE);
            write!(f, "{}{first:x}+{count:x}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// The text is no list of runs.
#[derive(Debug, thiserror::Error)]
#[error("runs of pages are FIRST+COUNT in hexadecimal, with a space between two")]
pub struct NoPageRuns;

impl std::str::FromStr for PageRuns {
    type Err = NoPageRuns;

    fn from_str(text: &str) -> Result<PageRuns, NoPageRuns> {
        let run = |text: &str| {
            let (first, count) = text.split_once('+')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let (first, count) = (number(first)?, number(count)?);
            let start = first.checked_mul(FRAME_SIZE)?;
            Some(start..first.checked_add(count)?.checked_mul(FRAME_SIZE)?)
        };
        text.split_whitespace().map(run).collect::<Option<_>>().map(PageRuns).ok_or(NoPageRuns)
    }
}

impl Serialize for PageRuns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PageRuns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PageRuns, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (ranges, text) in [(vec![], ""), (vec![0..4096, 0xab000..0xbc000], "0+1 ab+11")] {
            let runs = PageRuns::new(ranges);
            assert_eq!(runs.to_string(), text);
            assert_eq!(text.parse::<PageRuns>().unwrap(), runs);
        }
        for wrong in ["1", "1+", "+1", "x+1", "1+1,2+1", "-1+1", "ffffffffffffffff+1", "1+ffffffffffffffff"] {
            assert!(wrong.parse::<PageRuns>().is_err(), "{wrong}");
        }
    }
}
