//! What was measured, by what was done and how it started.

use std::collections::BTreeMap;

use super::start::Start;
use crate::statistics::{median, quantiles};

/// One answer of Hydra. Times in ms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// From the request to the answer, at the client.
    pub time: f64,
    /// The stages of `Server-Timing`.
    pub queue: f64,
    pub start: f64,
    pub run: f64,
    /// Page faults of Hydra's process meanwhile.
    pub faults: f64,
}

/// Percentiles of times, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percentiles {
    pub count: usize,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

impl Percentiles {
    /// Those of `times`, in ms.
    pub fn of(times: &[f64]) -> Percentiles {
        let [p50, p90, p99] = quantiles(times.iter().copied(), [0.5, 0.9, 0.99]);
        Percentiles { count: times.len(), p50, p90, p99 }
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Samples {
    /// By function.
    pub hydra: BTreeMap<(String, Start), Vec<Sample>>,
    /// Times in ms, by peer.
    pub peers: BTreeMap<&'static str, Vec<f64>>,
    /// What failed first, by what was measured.
    pub failures: BTreeMap<String, String>,
}

impl Samples {
    /// Percentiles of a function's answers by one start; `None` where there was none.
    pub fn of(&self, function: &str, start: Start) -> Option<Percentiles> {
        let samples = self.hydra.get(&(function.to_owned(), start))?;
        Some(Percentiles::of(&samples.iter().map(|sample| sample.time).collect::<Vec<_>>()))
    }

    /// Percentiles of a peer; `None` where it was not measured.
    pub fn of_peer(&self, name: &str) -> Option<Percentiles> {
        self.peers.get(name).map(|times| Percentiles::of(times))
    }

    /// The median of one stage, or of the faults.
    pub fn stage(&self, function: &str, start: Start, of: fn(&Sample) -> f64) -> Option<f64> {
        let samples = self.hydra.get(&(function.to_owned(), start))?;
        Some(median(samples.iter().map(of)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_one_start() {
        let mut samples = Samples::default();
        let times = (1..=100).map(|time| Sample { time: f64::from(time), run: 0.5, ..Sample::default() });
        samples.hydra.insert(("f".into(), Start::Warm), times.collect());
        let found = samples.of("f", Start::Warm).unwrap();
        assert_eq!(found, Percentiles { count: 100, p50: 50.0, p90: 90.0, p99: 99.0 });
        assert_eq!(samples.of("f", Start::Reset), None);
        assert_eq!(samples.stage("f", Start::Warm, |sample| sample.run), Some(0.5));
    }
}
