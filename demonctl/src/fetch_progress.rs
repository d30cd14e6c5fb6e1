//! Draws how far reading from the bucket is, where somebody looks.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use streams::release_store::TransferProgress;

use crate::output::may_draw;

const STYLE: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {elapsed}";

/// A bar on standard error, and nothing where that is no terminal. It disappears when dropped.
pub(crate) struct FetchProgress(ProgressBar);

impl FetchProgress {
    /// A bar for so many bytes.
    pub(crate) fn new(total_bytes: u64) -> Self {
        Self::named("fetching", total_bytes)
    }

    /// The same with another word for what is done with them.
    pub(crate) fn named(word: &'static str, total_bytes: u64) -> Self {
        let target = if may_draw() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target);
        let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(bar.with_style(style).with_message(word))
    }
}

impl TransferProgress for FetchProgress {
    fn advanced(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for FetchProgress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_counts_what_came_in() {
        ProgressStyle::with_template(STYLE).unwrap();
        let progress = FetchProgress::new(10);
        progress.advanced(4);
        progress.advanced(6);
        assert_eq!((progress.0.position(), progress.0.length()), (10, Some(10)));
    }
}
