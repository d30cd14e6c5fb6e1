//! Runs that somebody asked for: at most one waits, and whoever asks meanwhile shares it.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::finished_run::FinishedRun;

/// Callers that wait for one run; more are told to come back.
const MOST_WAITING: usize = 64;

/// A run that was asked for.
#[derive(Debug, Default)]
pub struct QueuedRun {
    /// Whether at least one caller wants a release of unchanged content.
    pub force: bool,
    waiting: Vec<oneshot::Sender<FinishedRun>>,
}

impl QueuedRun {
    /// Tells everybody who waits how it ended.
    pub fn finish(self, run: &FinishedRun) {
        for caller in self.waiting {
            // One who went away does not want to know.
            let _ = caller.send(run.clone());
        }
    }
}

/// The queue: any number of callers, one worker.
#[derive(Debug, Default)]
pub struct RunQueue {
    next: Mutex<Option<QueuedRun>>,
    added: Notify,
}

impl RunQueue {
    /// Asks for a run that begins after this moment.
    pub fn ask(&self, force: bool) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().force |= force;
        self.added.notify_one();
    }

    /// The same, with its result; `None` where too many wait already. The receiver fails where the publisher stops
    /// first.
    pub fn ask_and_wait(&self, force: bool) -> Option<oneshot::Receiver<FinishedRun>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let run = next.get_or_insert_default();
        run.waiting.retain(|caller| !caller.is_closed());
        if run.waiting.len() >= MOST_WAITING {
            return None;
        }
        run.force |= force;
        let (sender, receiver) = oneshot::channel();
        run.waiting.push(sender);
        drop(next);
        self.added.notify_one();
        Some(receiver)
    }

    /// The run that waits. Whoever asks from now on asks for another one.
    pub fn take(&self) -> Option<QueuedRun> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns when a run was asked for since the last return.
    pub async fn added(&self) {
        self.added.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_the_run_that_waits_and_one_that_began_is_not_shared() {
        let queue = RunQueue::default();
        assert!(queue.take().is_none());
        queue.ask(false);
        queue.ask(true);
        queue.ask(false);
        assert!(queue.take().unwrap().force, "one of them wanted force");
        assert!(queue.take().is_none(), "three requests, one run");
        queue.ask(false);
        assert!(!queue.take().unwrap().force, "force does not outlive its run");
    }

    #[test]
    fn the_number_that_waits_is_bounded_by_those_who_still_do() {
        let queue = RunQueue::default();
        let receivers: Vec<_> = (0..MOST_WAITING).map(|_| queue.ask_and_wait(false).unwrap()).collect();
        assert!(queue.ask_and_wait(false).is_none());
        drop(receivers);
        assert!(queue.ask_and_wait(false).is_some());
    }
}
