//! Folds the log up to a point in time: by the server's clock, by the sources' clock, or both.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use shared::fleet_history::StoredMessage;
use shared::fleet_history::timeline::FleetTimeline;
use streams::stored_event::StoredEvent;

use crate::log_input::{LogInput, ReadingProgress};
use crate::point_in_time::{PointInLog, parse_time};

/// Which past a command speaks of. Without any of the two it is now.
#[derive(Debug, Clone, Copy, Default, Args, Serialize)]
#[command(next_help_heading = "Point in time")]
pub(crate) struct PastArguments {
    /// What was known then, by the server's clock: a time (RFC 3339, `2025-09-21T14:03`, `2h` ago) or a stream sequence.
    #[arg(long, env = "DEMON_AT", value_name = "TIME|SEQUENCE")]
    pub(crate) at: Option<PointInLog>,
    /// What had happened by then, by the clocks of those who report it, late reports included: a time as above.
    #[arg(long, env = "DEMON_HAPPENED_AT", value_name = "TIME", value_parser = parse_time)]
    pub(crate) happened_at: Option<DateTime<Utc>>,
}

/// The event as the folds take it.
pub(crate) fn message(event: &StoredEvent) -> StoredMessage<'_> {
    StoredMessage {
        stream_sequence: event.stream_sequence,
        stored_at: event.stored_at,
        subject: &event.subject,
        payload: &event.payload,
    }
}

/// The fold of the log as of a point in the past, or of now. Reads to the first event that the server stored later,
/// and no further.
pub(crate) async fn timeline(input: LogInput, past: &PastArguments) -> anyhow::Result<FleetTimeline> {
    let mut timeline = match past.happened_at {
        Some(time) => FleetTimeline::as_it_happened_by(time),
        None => FleetTimeline::default(),
    };
    let mut log = LogFolder::start(input);
    log.apply_up_to(&mut timeline, past.at).await?;
    Ok(timeline)
}

/// Reads the log once, stopping at points on the way.
pub(crate) struct LogFolder {
    input: LogInput,
    progress: ReadingProgress,
    /// Read, but beyond the last point asked for.
    ahead: Vec<StoredEvent>,
}

impl LogFolder {
    pub(crate) fn start(input: LogInput) -> Self {
        let progress = ReadingProgress::start("reading the log", input.last_sequence);
        Self { input, progress, ahead: Vec::new() }
    }

    /// Applies events up to a point, or to the end of the log.
    pub(crate) async fn apply_up_to(
        &mut self,
        timeline: &mut FleetTimeline,
        point: Option<PointInLog>,
    ) -> anyhow::Result<()> {
        loop {
            let beyond = |event: &StoredEvent| {
                point.is_some_and(|point| !point.includes(event.stream_sequence, event.stored_at))
            };
            let end = self.ahead.iter().position(beyond);
            let ahead = self.ahead.split_off(end.unwrap_or(self.ahead.len()));
            for event in std::mem::replace(&mut self.ahead, ahead) {
                timeline.apply(message(&event));
            }
            if end.is_some() {
                return Ok(());
            }
            match self.input.next_page().await? {
                Some(page) => self.ahead = page,
                None => return Ok(()),
            }
            self.progress.at(timeline.state.last_sequence);
        }
    }
}
