//! Percentiles of one round, and the median of rounds.

use std::time::Duration;

use serde::Serialize;

/// What one or more rounds of one measurement say. Times in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Half of the requests took at most this long.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// Requests answered per second.
    pub per_second: f64,
}

impl Summary {
    /// Of one round of `elapsed`; `latencies` in nanoseconds, in any order. Raw: a closed loop sends the next request when the
    /// last was answered, and this is not corrected for what it would have sent meanwhile.
    pub fn of_round(latencies: &mut [u32], elapsed: Duration) -> Summary {
        latencies.sort_unstable();
        let at = |q| f64::from(quantile(latencies, q)) / 1e6;
        Summary {
            p50: at(0.50),
            p90: at(0.90),
            p99: at(0.99),
            per_second: latencies.len() as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
        }
    }

    /// The median of each number.
    pub fn median(rounds: &[Summary]) -> Summary {
        let of = |number: fn(&Summary) -> f64| median(rounds.iter().map(number));
        Summary {
            p50: of(|r| r.p50),
            p90: of(|r| r.p90),
            p99: of(|r| r.p99),
            per_second: of(|r| r.per_second),
        }
    }
}

/// The nearest-rank quantile of sorted values: the smallest that at least the part `q` of them do not exceed; 0 of none.
fn quantile<T: Copy + Default>(sorted: &[T], q: f64) -> T {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Quantiles of values in any order, by nearest rank; 0 of none.
pub fn quantiles<const N: usize>(values: impl IntoIterator<Item = f64>, at: [f64; N]) -> [f64; N] {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    at.map(|q| quantile(&values, q))
}

/// The median; the mean of the two in the middle where their number is even; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The lower and the upper quartile, by nearest rank; 0 of none.
pub fn quartiles(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let [low, high] = quantiles(values, [0.25, 0.75]);
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let mut round: Vec<u32> = (1..=100).rev().map(|ms| ms * 1_000_000).collect();
        let summary = Summary::of_round(&mut round, Duration::from_secs(2));
        assert_eq!(summary, Summary { p50: 50.0, p90: 90.0, p99: 99.0, per_second: 50.0 });
        assert_eq!(Summary::of_round(&mut [7_000_000], Duration::from_secs(1)).p99, 7.0);
        assert_eq!(Summary::of_round(&mut [], Duration::from_secs(1)).p50, 0.0);
    }

    #[test]
    fn medians_ignore_one_bad_round() {
        assert_eq!(median([1.0, 900.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn quartiles_hold_the_middle_half() {
        assert_eq!(quartiles([4.0, 1.0, 3.0, 2.0]), (1.0, 3.0));
        assert_eq!(quartiles([5.0]), (5.0, 5.0));
        assert_eq!(quartiles([]), (0.0, 0.0));
    }
}
