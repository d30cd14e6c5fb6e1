//! How the library says how far it is. It never prints; whoever runs it decides what becomes of this.

use std::sync::Arc;

use streams::release_store::TransferProgress;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The source is read and hashed.
    Read,
    /// The archive is written to a temporary file.
    Pack,
    /// The archive goes into the bucket.
    Store,
    /// The archive is fetched from the bucket and compared.
    ReadBack,
    /// A delta from a release that nodes have is made and checked.
    Patch,
    /// The events go into the log.
    Announce,
}

/// Hears of stages and bytes. Called from several threads.
pub trait ProgressReporter: Send + Sync {
    /// A stage begins; the one before has ended. `total_bytes` is what [`ProgressReporter::advance`] will add up
    /// to, where that is known.
    fn begin(&self, stage: Stage, total_bytes: Option<u64>);

    /// So many more bytes of the current stage are done.
    fn advance(&self, bytes: u64);
}

/// A reporter that several threads share.
pub type Progress = Arc<dyn ProgressReporter>;

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Silent {
    /// A shared silent reporter.
    pub fn shared() -> Progress {
        Arc::new(Self)
    }
}

impl ProgressReporter for Silent {
    fn begin(&self, _stage: Stage, _total_bytes: Option<u64>) {}

    fn advance(&self, _bytes: u64) {}
}

/// Hands a transfer's bytes on to a reporter.
pub(crate) struct Transfer<'a>(pub(crate) &'a dyn ProgressReporter);

impl TransferProgress for Transfer<'_> {
    fn advanced(&self, bytes: u64) {
        self.0.advance(bytes);
    }
}
