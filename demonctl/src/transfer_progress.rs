//! Draws how far reading, packing, storing and reading back are, where somebody looks.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use publisher::progress::{Progress, ProgressReporter, Silent, Stage};

use crate::output::may_draw;

const BYTES: &str = "{msg:<10} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {elapsed}";
const UNKNOWN: &str = "{msg:<10} {spinner} {bytes} {elapsed}";

/// A reporter that draws on standard error where it is a terminal, and is silent elsewhere. What it drew disappears
/// with it.
pub(crate) fn transfer_progress() -> Progress {
    if may_draw() { Arc::new(TransferBars::new(ProgressDrawTarget::stderr)) } else { Silent::shared() }
}

/// One bar a stage, in one line.
struct TransferBars {
    target: fn() -> ProgressDrawTarget,
    current: Mutex<Option<ProgressBar>>,
}

impl TransferBars {
    fn new(target: fn() -> ProgressDrawTarget) -> Self {
        Self { target, current: Mutex::new(None) }
    }

    fn replace(&self, bar: Option<ProgressBar>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = std::mem::replace(&mut *current, bar) {
            before.finish_and_clear();
        }
    }
}

impl ProgressReporter for TransferBars {
    fn begin(&self, stage: Stage, total_bytes: Option<u64>) {
        let bar = ProgressBar::with_draw_target(total_bytes, (self.target)());
        let template = if total_bytes.is_some() { BYTES } else { UNKNOWN };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.replace(Some(bar.with_style(style).with_message(title(stage))));
    }

    fn advance(&self, bytes: u64) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = &*current {
            bar.inc(bytes);
        }
    }
}

impl Drop for TransferBars {
    fn drop(&mut self) {
        self.replace(None);
    }
}

fn title(stage: Stage) -> &'static str {
    match stage {
        Stage::Read => "reading",
        Stage::Pack => "packing",
        Stage::Store => "storing",
        Stage::ReadBack => "checking",
        Stage::Patch => "patching",
        Stage::Announce => "announcing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_has_a_bar_of_its_own_that_counts_its_bytes() {
        let bars = TransferBars::new(ProgressDrawTarget::hidden);
        bars.advance(3);
        bars.begin(Stage::Read, Some(10));
        bars.advance(4);
        bars.advance(2);
        let position = || bars.current.lock().unwrap().as_ref().map(|bar| (bar.position(), bar.length()));
        assert_eq!(position(), Some((6, Some(10))));
        bars.begin(Stage::Announce, None);
        assert_eq!(position(), Some((0, None)));
        let first = bars.current.lock().unwrap().clone().unwrap();
        drop(bars);
        assert!(first.is_finished());
    }

    #[test]
    fn the_templates_are_valid() {
        for template in [BYTES, UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
