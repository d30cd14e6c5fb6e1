//! One pass over the log: which checkpoints it holds, and where an event is.

use shared::event::{BundleEvent, Checkpointed};
use shared::fleet_history;
use shared::identifiers::EventId;
use streams::event_log::EventWithId;
use streams::stored_event::StoredEvent;

use crate::log_input::{LogInput, ReadingProgress};

/// The event that is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// None.
    Nothing,
    /// By its place.
    Sequence(u64),
    /// By its id.
    Id(EventId),
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The checkpoints with the stream sequences of their events, oldest first.
    pub(super) checkpoints: Vec<(u64, Checkpointed)>,
    pub(super) event: Option<StoredEvent>,
}

impl Survey {
    pub(super) async fn of(input: &mut LogInput, wanted: Wanted) -> anyhow::Result<Self> {
        let mut survey = Self::default();
        let progress = ReadingProgress::start("looking for checkpoints", input.last_sequence);
        while let Some(page) = input.next_page_with_ids().await? {
            for with_id in page {
                survey.take(with_id, wanted);
            }
            progress.at(survey.checkpoints.last().map_or(0, |(sequence, _)| *sequence));
        }
        Ok(survey)
    }

    fn take(&mut self, with_id: EventWithId, wanted: Wanted) {
        let EventWithId { event, message_id } = with_id;
        if event.subject.starts_with("bundle.checkpointed.")
            && let Ok(envelope) = fleet_history::read(&event.subject, &event.payload)
            && let BundleEvent::Checkpointed(data) = envelope.event
        {
            self.checkpoints.push((event.stream_sequence, data));
        }
        let found = match wanted {
            Wanted::Nothing => false,
            Wanted::Sequence(sequence) => event.stream_sequence == sequence,
            Wanted::Id(id) => message_id.is_some_and(|actual| actual == id.to_string()),
        };
        if found && self.event.is_none() {
            self.event = Some(event);
        }
    }

    /// The note of the newest checkpoint of this size.
    pub(super) fn note_of(&self, size: u64) -> Option<String> {
        let of_size = self.checkpoints.iter().rev().find(|(_, data)| data.size == size);
        of_size.map(|(_, data)| data.note.clone())
    }

    /// Size of the newest checkpoint.
    pub(super) fn newest_size(&self) -> Option<u64> {
        self.checkpoints.last().map(|(_, data)| data.size)
    }
}
