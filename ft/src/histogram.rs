//! A latency histogram of fixed size: eight buckets an octave, at most 12.5 % off.

use serde::{Deserialize, Serialize};

/// Buckets per doubling, as a power of two.
const SUB_BITS: u32 = 3;
/// Buckets below which each value has its own.
const LINEAR: u64 = 1 << (SUB_BITS + 1);
/// Buckets in all: enough for any 64-bit value.
const BUCKETS: usize = 64 << SUB_BITS;

/// Counts durations in nanoseconds.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u128,
    max_ns: u64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            sum_ns: 0,
            max_ns: 0,
        }
    }
}

impl LatencyHistogram {
    /// Counts one duration.
    pub fn add(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The duration that `permille` of a thousand do not exceed, to within a bucket; zero when
    /// none was counted.
    #[must_use]
    pub fn quantile_ns(&self, permille: u64) -> u64 {
        let rank = (self.total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(index).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The figures that are shown.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let mean_ns = match self.total {
            0 => 0,
            total => u64::try_from(self.sum_ns / u128::from(total)).unwrap_or(u64::MAX),
        };
        LatencySummary {
            count: self.total,
            mean_us: micros(mean_ns),
            p50_us: micros(self.quantile_ns(500)),
            p99_us: micros(self.quantile_ns(990)),
            max_us: micros(self.max_ns),
        }
    }
}

/// A histogram in five figures, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// How many were counted.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// Half are no longer than this.
    pub p50_us: f64,
    /// 99 % are no longer than this.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// Nanoseconds as microseconds.
fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// The bucket of a value: linear at first, then the leading four bits and the exponent.
fn bucket(ns: u64) -> usize {
    if ns < LINEAR {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros();
    let sub = (ns >> (exponent - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (((exponent - SUB_BITS + 1) << SUB_BITS) as u64 + sub) as usize
}

/// The largest value of a bucket.
fn upper_edge(index: usize) -> u64 {
    let index = index as u64;
    if index < LINEAR {
        return index;
    }
    let exponent = (index >> SUB_BITS) as u32 + SUB_BITS - 1;
    let sub = index & ((1 << SUB_BITS) - 1);
    let width = 1_u64 << (exponent - SUB_BITS);
    (1_u64 << exponent)
        .saturating_add(sub * width)
        .saturating_add(width - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_that_ends_at_or_above_it_and_not_far_above() {
        for shift in 0..63 {
            for extra in [0, 1, 3] {
                let value = (1_u64 << shift) + extra;
                let edge = upper_edge(bucket(value));
                assert!(edge >= value, "{value} {edge}");
                assert!(edge - value <= value / 8, "{value} {edge}");
            }
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_of_a_known_series_are_right_to_within_a_bucket() {
        let mut histogram = LatencyHistogram::default();
        for value in 1..=1000 {
            histogram.add(value * 1000);
        }
        let summary = histogram.summary();
        assert_eq!(summary.count, 1000);
        assert!((500.0..=563.0).contains(&summary.p50_us), "{summary:?}");
        assert!((990.0..=1000.0).contains(&summary.p99_us), "{summary:?}");
        assert!((summary.max_us - 1000.0).abs() < f64::EPSILON);
    }

    #[test]
    fn an_empty_histogram_is_all_zero() {
        assert_eq!(
            LatencyHistogram::default().summary(),
            LatencySummary::default()
        );
    }
}
