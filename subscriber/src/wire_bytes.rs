//! Counting what a node reads from the release store, as it comes: also of fetches that fail or are given up.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Unit, counter, describe_counter};
use streams::release_store::TransferProgress;

use crate::metrics::BundleMetrics;

const WIRE_BYTES: &str = "demon_bundle_wire_bytes_total";

/// What bytes are read for: the label `purpose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A release that is to run now.
    Switch,
    /// One that is announced and not promoted.
    Prefetch,
}

impl Purpose {
    fn label(self) -> [(&'static str, &'static str); 1] {
        [(
            "purpose",
            match self {
                Self::Switch => "switch",
                Self::Prefetch => "prefetch",
            },
        )]
    }
}

/// Counts the bytes of one fetch.
pub(crate) struct WireBytes {
    counter: Counter,
    counted: AtomicU64,
}

impl WireBytes {
    /// Nothing is counted yet.
    pub(crate) fn new(metrics: &BundleMetrics, purpose: Purpose) -> Self {
        let counter = counter!(WIRE_BYTES, metrics.labels(&purpose.label()));
        Self { counter, counted: AtomicU64::new(0) }
    }

    /// The fetch has succeeded with so many bytes: what was read at once and not as it came is counted now.
    pub(crate) fn complete(&self, wire_bytes: u64) {
        self.counter.increment(wire_bytes.saturating_sub(self.counted.load(Ordering::Relaxed)));
    }
}

impl TransferProgress for WireBytes {
    fn advanced(&self, bytes: u64) {
        self.counted.fetch_add(bytes, Ordering::Relaxed);
        self.counter.increment(bytes);
    }
}

/// Says what the series is.
pub(crate) fn describe_metrics() {
    describe_counter!(WIRE_BYTES, Unit::Bytes, "Bytes of releases and patches read from the store, by what for");
}

/// Makes the series be there, at zero.
pub(crate) fn begin_metrics(metrics: &BundleMetrics) {
    for purpose in [Purpose::Switch, Purpose::Prefetch] {
        counter!(WIRE_BYTES, metrics.labels(&purpose.label())).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn every_byte_is_counted_once_whenever_it_comes() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let metrics = BundleMetrics::default();
            begin_metrics(&metrics);
            let bytes = WireBytes::new(&metrics, Purpose::Prefetch);
            bytes.advanced(3);
            bytes.advanced(4);
            bytes.complete(10);
            WireBytes::new(&metrics, Purpose::Prefetch).advanced(5);
        });
        let page = recorder.handle().render();
        assert!(page.contains("demon_bundle_wire_bytes_total{purpose=\"prefetch\"} 15"), "{page}");
        assert!(page.contains("demon_bundle_wire_bytes_total{purpose=\"switch\"} 0"), "{page}");
    }
}
