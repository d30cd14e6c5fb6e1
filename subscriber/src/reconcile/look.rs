//! A look at the log: what it says is judged, remembered and turned into what this node desires.

use std::time::Duration;

use rand::RngExt as _;
use shared::daemon::ErrorChain;
use shared::event::Published;
use streams::durability::too_old;
use streams::event_log::ReadError;
use tokio::time::Instant;

use super::agent::Agent;
use super::wake_ups::WakeUps;
use crate::alarms::Subject;
use crate::checkpoint_watch::LogState;
use crate::config::Follow;
use crate::desired::{Answer, Extent, Head, Reading, announcement};
use crate::node_report::LoggedReport;
use crate::node_state::{Provenance, ReleaseId};

/// How long answers of a log that lags are shrugged off before they raise an alarm.
const LAG_TOLERATED: Duration = Duration::from_mins(1);
const FIRST_CATCH_UP: Duration = Duration::from_millis(20);
const LONGEST_CATCH_UP: Duration = Duration::from_secs(1);

impl Agent {
    /// Reads the desired state. The error is the time after which to try again; what was known stays.
    pub(super) async fn look(&mut self, wake_ups: &mut WakeUps, extent: Extent) -> Result<(), Duration> {
        // Before its answers are misread.
        if let Some(text) = too_old(&self.log.connection().server_version()) {
            self.alarms.raise(Subject::Log, text);
            return Err(self.pause());
        }
        // It changes where somebody is noticed who writes with a copy of the state directory.
        self.question.incarnation = self.outbox.incarnation();
        let answer = tokio::select! {
            answer = self.question.ask(&self.log, &self.state.position, &extent) => answer,
            // What is to be done about that needs no answer.
            () = self.trial_failed() => return Err(Duration::ZERO),
        };
        self.first_look.cancel();
        match answer {
            Ok(Answer::Current(mut reading)) => {
                self.alarms.clear(Subject::Log);
                self.alarms.clear(Subject::Outdated);
                self.outdated_since = None;
                let checkpoint = reading.checkpoint.take();
                let state = LogState { epoch: reading.epoch, up_to_sequence: reading.up_to_sequence };
                self.deafness.log_unreadable = false;
                wake_ups.read_head(&reading.head);
                let (is_whole, announced) = (reading.is_whole, reading.announced.take());
                let verdict = self.judge_pin(&reading);
                self.note_update(&reading).await;
                self.take(*reading, self.pinned_release(verdict));
                self.settle_pin(verdict).await;
                let announced = self.look_up_announcement(announced).await;
                wake_ups.await_announcement(self.desired.as_ref().map(|desired| &desired.tag));
                if is_whole {
                    self.watch_log(state, checkpoint).await;
                }
                announced.map_err(|error| self.unreadable(&error))?;
                if self.end_impossible_pin().await {
                    // Without the pin the same answer says something else.
                    return Err(Duration::ZERO);
                }
                self.fruitless = 0;
                self.looked = true;
                Ok(())
            }
            Ok(Answer::Outdated { up_to_sequence }) => {
                let since = *self.outdated_since.get_or_insert_with(Instant::now);
                let seen = self.state.position.read_up_to;
                tracing::debug!(up_to_sequence, seen, "an answer is older than what was seen and is not believed");
                if since.elapsed() >= LAG_TOLERATED {
                    self.alarms.raise(
                        Subject::Outdated,
                        format!(
                            "the log answers up to event {up_to_sequence}, but event {seen} was seen before: replicas \
                             lag, or it was restored from a backup without starting an epoch"
                        ),
                    );
                }
                self.watch_outdated_log(up_to_sequence).await;
                self.fruitless = self.fruitless.saturating_add(1);
                Err(catch_up_pause(self.fruitless))
            }
            Ok(Answer::NotReady(missing)) => {
                self.alarms.raise(Subject::Log, format!("waiting for the event log: {missing}"));
                Err(self.pause())
            }
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn unreadable(&mut self, error: &ReadError) -> Duration {
        self.deafness.log_unreadable = true;
        self.alarms.raise(Subject::Log, ErrorChain(error).to_string());
        self.pause()
    }

    fn pause(&mut self) -> Duration {
        self.fruitless = self.fruitless.saturating_add(1);
        let delay = self.config.timing.retry().delay(u64::from(self.fruitless), rand::rng().random());
        delay.min(self.config.timing.interval)
    }

    /// Takes over what the log says. A local pin that holds is desired in place of the channel's head.
    fn take(&mut self, reading: Reading, pinned: Option<ReleaseId>) {
        let position = &mut self.state.position;
        if position.epoch != Some(reading.epoch) {
            if let Some(old) = position.epoch {
                tracing::warn!(old = %old, new = %reading.epoch, "the log was restored: it is read anew");
                self.node_alarms.log_was_restored();
            }
            position.enter_epoch(reading.epoch);
            let head = match &reading.head {
                Head::Channel(sequence, _) => *sequence,
                Head::Pinned(..) | Head::Missing | Head::Unchanged => 0,
            };
            self.state.trials.enter_epoch(head);
            self.state.ahead.enter_epoch();
            self.prefetch.enter_epoch();
            self.unsaved = true;
        }
        position.read_up_to = position.read_up_to.max(reading.up_to_sequence);
        // A withdrawal is for good, so the node remembers it by forgetting the release: also offline, after a restart, it
        // does not return to it.
        let remembered = self.state.previous.len();
        self.state.previous.retain(|old| !reading.withdrawn.holds(old.id.tree_digest, Some(old.content_digest)));
        self.unsaved |= self.state.previous.len() != remembered;
        self.asked = true;
        self.withdrawn = reading.withdrawn;
        if reading.is_whole {
            self.own_last_sequence = reading.own_last_sequence;
            let (up_to_sequence, last_sequence) = (reading.up_to_sequence, reading.bundle_last_sequence);
            self.logged = Some(LoggedReport { up_to_sequence, last_sequence });
        }
        self.unannounced_pin = match &self.target.follow {
            Follow::Tag(tag) if reading.head == Head::Missing && pinned.is_none() => Some(tag.clone()),
            Follow::Tag(_) | Follow::Channel(_) => None,
        };
        let missing = (reading.head == Head::Missing).then(|| match &self.target.follow {
            Follow::Channel(channel) => format!("channel `{channel}` points at no release yet"),
            Follow::Tag(tag) => format!("pinned release `{tag}` is not announced"),
        });
        match reading.head {
            Head::Channel(sequence, promoted) => {
                if position.applied.insert(promoted.channel, sequence) != Some(sequence) {
                    self.unsaved = true;
                }
                let head = ReleaseId { tag: promoted.tag, tree_digest: promoted.tree_digest };
                self.unsaved |= self.state.ahead.point_at(&head, sequence);
                if self.state.trials.heed_head(&head, sequence, promoted.cause) {
                    tracing::info!(tag = %head.tag, "the channel was moved to it anew: the release is tried again");
                    self.unsaved = true;
                }
                self.desire(pinned.unwrap_or(head));
            }
            Head::Pinned(sequence, published) => {
                self.desire(ReleaseId { tag: published.tag.clone(), tree_digest: published.tree_digest });
                self.announced = Some((sequence, published));
            }
            // What ran stays desired, so that it is put back where it is gone.
            Head::Unchanged | Head::Missing => {
                if let Some(pinned) = pinned {
                    self.desire(pinned);
                } else if self.desired.is_none() {
                    let active = self.state.active.as_ref();
                    let released = active.filter(|active| active.provenance != Provenance::Embedded);
                    self.desired = released.map(|active| active.id.clone());
                }
            }
        }
        let complaints: Vec<String> = missing.into_iter().chain(reading.oddities).collect();
        self.alarms.set(Subject::Head, (!complaints.is_empty()).then(|| complaints.join("; ")));
        if let Some((sequence, writer)) = reading.rival {
            self.node_alarms.seen_in_log(sequence, writer);
        }
    }

    pub(super) fn desire(&mut self, release: ReleaseId) {
        if self.desired.as_ref() != Some(&release) {
            tracing::info!(tag = %release.tag, tree_digest = %release.tree_digest, "desired release");
            self.desired = Some(release);
            self.announced = None;
        }
    }

    /// Looks up how the desired release was announced, unless it runs already or was `read` with the rest.
    async fn look_up_announcement(&mut self, read: Option<(u64, Published)>) -> Result<(), ReadError> {
        let Some(desired) = self.desired.clone() else { return Ok(()) };
        if self.active().is_some_and(|active| active.id == desired) || matches!(self.target.follow, Follow::Tag(_)) {
            return Ok(());
        }
        if read.as_ref().is_some_and(|(_, published)| published.tag == desired.tag) {
            (self.announced, self.unannounced) = (read, 0);
            return Ok(());
        }
        self.announced = self.announcement_read_ahead(&desired).await;
        if self.announced.is_some() {
            self.unannounced = 0;
            return Ok(());
        }
        self.announced = announcement(&self.log, &self.target.bundle, &desired.tag).await?;
        self.unannounced = if self.announced.is_some() { 0 } else { self.unannounced.saturating_add(1) };
        Ok(())
    }
}

/// How soon the log is read again when it should have gone further by now, or answered with an old state.
pub(in crate::reconcile) fn catch_up_pause(attempts: u32) -> Duration {
    FIRST_CATCH_UP.saturating_mul(1 << attempts.min(16)).min(LONGEST_CATCH_UP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catching_up_begins_at_once_and_slows_down() {
        let pauses = [0, 1, 5, 6, u32::MAX].map(|attempts| catch_up_pause(attempts).as_millis());
        assert_eq!(pauses, [20, 40, 640, 1000, 1000]);
    }
}
