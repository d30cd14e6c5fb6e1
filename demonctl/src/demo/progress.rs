//! Shows the demo's steps: drawn on a terminal, plain lines elsewhere.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::output::{may_draw, print_line};

const TICK: Duration = Duration::from_millis(100);

/// The demo was told to stop.
#[derive(Debug, thiserror::Error)]
#[error("stopped by a signal")]
pub(crate) struct Stopped;

/// Numbers, shows and times the steps, and ends the one that runs when a signal arrives.
pub(crate) struct Progress {
    stop: CancellationToken,
    done: usize,
    total: usize,
}

impl Progress {
    /// For `total` steps.
    pub(crate) fn new(total: usize, stop: CancellationToken) -> Self {
        Self { stop, done: 0, total }
    }

    /// Runs one step and shows what it returns for people. A failure, or a signal, names the step.
    pub(crate) async fn step<T>(
        &mut self,
        title: &str,
        work: impl Future<Output = anyhow::Result<(T, Vec<String>)>>,
    ) -> anyhow::Result<T> {
        self.done += 1;
        let heading = format!("[{}/{}] {title}", self.done, self.total);
        let bar = may_draw().then(|| spinner(&heading));
        if bar.is_none() {
            print_line(&heading)?;
        }
        let started = Instant::now();
        let result = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(anyhow!(Stopped)),
            result = work => result,
        };
        if let Some(bar) = bar {
            bar.finish_and_clear();
            let mark = if result.is_ok() { "✓" } else { "✗" };
            print_line(&format!("{mark} {heading} ({} ms)", started.elapsed().as_millis()))?;
        }
        let (value, lines) = result.with_context(|| format!("step {}/{} failed: {title}", self.done, self.total))?;
        for line in lines {
            print_line(&format!("      {line}"))?;
        }
        Ok(value)
    }
}

fn spinner(heading: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_message(heading.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_names_the_step_and_keeps_the_cause() {
        let mut progress = Progress::new(2, CancellationToken::new());
        progress.step("one", async { Ok(((), vec![])) }).await.unwrap();
        let error = progress.step::<()>("two", async { Err(anyhow!("no disk")) }).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "step 2/2 failed: two: no disk");
    }

    #[tokio::test]
    async fn a_signal_ends_the_step_that_runs() {
        let stop = CancellationToken::new();
        let mut progress = Progress::new(1, stop.clone());
        stop.cancel();
        let error = progress.step::<()>("endless", std::future::pending()).await.unwrap_err();
        assert!(error.downcast_ref::<Stopped>().is_some() || error.root_cause().is::<Stopped>());
    }
}
