//! What was measured of one way of doing the work: numbers, and what to say of them.

use std::time::Duration;

/// Numbers of one kind, one for each round, node or request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    values: Vec<f64>,
}

impl Samples {
    pub(crate) fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// Adds a number where there is one.
    pub(crate) fn add_some(&mut self, value: Option<f64>) {
        self.values.extend(value);
    }

    /// Adds a time in milliseconds.
    pub(crate) fn add_time(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1000.0);
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.values.extend_from_slice(&other.values);
    }

    pub(crate) fn count(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.quantile(0.99)
    }

    pub(crate) fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    pub(crate) fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// The smallest value that at least this fraction of all does not exceed; 0 where there are none.
    fn quantile(&self, fraction: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a vector, far below 2^52"
        )]
        let rank = (fraction * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self { values: values.into_iter().collect() }
    }
}

/// How many in a second.
pub(crate) fn rate(number: u64, time: Duration) -> f64 {
    as_number(number) / time.as_secs_f64().max(f64::EPSILON)
}

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "counts here stay far below 2^52")]
pub(crate) fn as_number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let samples: Samples = (1..=100).rev().map(f64::from).collect();
        assert_eq!((samples.median(), samples.p99(), samples.min(), samples.max()), (50.0, 99.0, 1.0, 100.0));
        let one: Samples = [7.0].into_iter().collect();
        assert_eq!((one.median(), one.p99(), one.max()), (7.0, 7.0, 7.0));
        assert_eq!((Samples::default().median(), Samples::default().count()), (0.0, 0));
    }

    #[test]
    fn a_rate_is_by_the_second() {
        assert_eq!((rate(500, Duration::from_millis(250)), as_number(7)), (2000.0, 7.0));
    }
}
