//! Heeding the local pin: what somebody put into this cache by hand is what the node should run, for as long as the pin
//! holds.

use shared::daemon::ErrorChain;
use tokio::task::spawn_blocking;

use super::agent::Agent;
use crate::alarms::Subject;
use crate::config::Follow;
use crate::desired::{Head, Reading};
use crate::local_pin::{LocalPin, PinEnd, PinStamp, PinVerdict, PinnedAt};
use crate::node_state::ReleaseId;
use crate::release_directory::says_to_be;

/// The pin as it was last read.
#[derive(Debug, Default)]
pub(super) struct KnownPin {
    pub(super) pin: Option<LocalPin>,
    stamp: PinStamp,
}

impl Agent {
    /// Reads the pin where its file is another than last time. Without a word from the log a pin that may hold is
    /// heeded at once: whoever made it switched the cache already, and must not be undone.
    pub(super) async fn refresh_pin(&mut self) {
        // One look at a name, which is quicker than to have another thread look.
        if LocalPin::stamp(&self.cache) == self.known_pin.stamp {
            return;
        }
        let cache = self.cache.clone();
        let Ok((stamp, loaded)) = spawn_blocking(move || (LocalPin::stamp(&cache), LocalPin::load(&cache))).await
        else {
            return;
        };
        self.known_pin.stamp = stamp;
        let Follow::Channel(channel) = &self.target.follow else { return };
        let complaint = loaded.as_ref().err().map(|error| ErrorChain(error).to_string());
        self.alarms.set(Subject::Pin, complaint);
        let had_pin = self.known_pin.pin.take().is_some();
        let Ok(Some(pin)) = loaded else {
            if had_pin {
                tracing::info!("the local pin is gone: the channel is followed again");
            }
            return;
        };
        let position = &self.state.position;
        let verdict = position.epoch.map(|epoch| {
            let now = PinnedAt { epoch, up_to_sequence: position.read_up_to };
            pin.judge(&self.target.bundle, now, position.applied.get(channel).copied(), &self.withdrawn)
        });
        if !matches!(verdict, Some(PinVerdict::Ended(_))) {
            tracing::info!(
                tag = %pin.tag, actor = pin.actor.as_ref().map(ToString::to_string),
                "a release was put into the cache by hand: it stays until the channel moves"
            );
            self.unsaved |= self.state.trials.heed_hand(&pin.release(), pin.time);
            // Whoever put it there replaced what was damaged; it is compared before it is used.
            self.damaged.remove(&pin.release());
            self.desire(pin.release());
        }
        self.known_pin.pin = Some(pin);
    }

    /// What the log says about the pin.
    pub(super) fn judge_pin(&self, reading: &Reading) -> Option<PinVerdict> {
        let pin = self.known_pin.pin.as_ref()?;
        let Follow::Channel(channel) = &self.target.follow else { return None };
        let same_epoch = self.state.position.epoch == Some(reading.epoch);
        let head = match &reading.head {
            Head::Channel(_, head) if head.tag == pin.tag && head.tree_digest == pin.tree_digest => {
                return Some(PinVerdict::Ended(PinEnd::SameAsChannel));
            }
            Head::Channel(sequence, _) => Some(*sequence),
            Head::Missing | Head::Unchanged | Head::Pinned(..) => {
                self.state.position.applied.get(channel).copied().filter(|_| same_epoch)
            }
        };
        let now = PinnedAt { epoch: reading.epoch, up_to_sequence: reading.up_to_sequence };
        Some(pin.judge(&self.target.bundle, now, head, &reading.withdrawn))
    }

    /// The release to run instead of the channel's.
    pub(super) fn pinned_release(&self, verdict: Option<PinVerdict>) -> Option<ReleaseId> {
        match verdict? {
            PinVerdict::Holds | PinVerdict::Begins(_) => self.known_pin.pin.as_ref().map(LocalPin::release),
            PinVerdict::Ended(_) => None,
        }
    }

    /// Carries a verdict out on disk.
    pub(super) async fn settle_pin(&mut self, verdict: Option<PinVerdict>) {
        match verdict {
            None | Some(PinVerdict::Holds) => {}
            Some(PinVerdict::Begins(at)) => {
                let pin = self.known_pin.pin.take().map(|pin| pin.beginning_at(at));
                self.replace_pin(pin).await;
            }
            Some(PinVerdict::Ended(why)) => self.end_pin(why).await,
        }
    }

    /// Ends a pin to a release that can neither be served nor fetched: it came from elsewhere, and the cache was deleted
    /// since. Says whether it did.
    pub(super) async fn end_impossible_pin(&mut self) -> bool {
        let Some(pin) = self.known_pin.pin.as_ref().map(LocalPin::release) else { return false };
        let announced = self.announced.as_ref().is_some_and(|(_, announced)| announced.tree_digest == pin.tree_digest);
        if announced || self.desired.as_ref() != Some(&pin) || self.active().is_some_and(|active| active.id == pin) {
            return false;
        }
        let (home, id) = (self.cache.release(&pin.tag), pin);
        let here = spawn_blocking(move || says_to_be(&home, &id)).await.unwrap_or(true);
        if !here {
            self.end_pin(PinEnd::Gone).await;
        }
        !here
    }

    async fn end_pin(&mut self, why: PinEnd) {
        if let Some(pin) = self.known_pin.pin.take() {
            tracing::info!(tag = %pin.tag, "the local pin ends: {}", why.as_str());
            self.replace_pin(None).await;
        }
    }

    /// Writes or removes the pin file, unless somebody else has changed it since it was read. Where the disk refuses, the
    /// pin counts as replaced until a restart reads the file again.
    async fn replace_pin(&mut self, pin: Option<LocalPin>) {
        self.known_pin.pin.clone_from(&pin);
        let lock = match self.cache.lock().await {
            Ok(lock) => lock,
            Err(error) => return self.alarms.raise(Subject::Pin, ErrorChain(&error).to_string()),
        };
        let (cache, known) = (self.cache.clone(), self.known_pin.stamp);
        let replaced = spawn_blocking(move || {
            if LocalPin::stamp(&cache) == known {
                match &pin {
                    Some(pin) => pin.save(&cache, &lock)?,
                    None => LocalPin::remove(&cache, &lock)?,
                }
                Ok(Some(LocalPin::stamp(&cache)))
            } else {
                Ok(None)
            }
        });
        match replaced.await.map_err(crate::fetch::StageFailure::from).flatten() {
            Ok(Some(stamp)) => {
                self.known_pin.stamp = stamp;
                self.alarms.clear(Subject::Pin);
            }
            // Another one, to be read in the next round.
            Ok(None) => {}
            Err(failure) => self.alarms.raise(Subject::Pin, failure.text()),
        }
    }

    /// Whether the pin on disk is the one that is known: asked under the cache's lock, right before a switch.
    pub(super) fn pin_stamp(&self) -> PinStamp {
        self.known_pin.stamp
    }
}
