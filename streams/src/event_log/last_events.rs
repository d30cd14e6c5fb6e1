//! The last event of each of many subjects: heads, however many there are.

use std::collections::VecDeque;

use shared::daemon::ErrorChain;
use shared::subjects::EVENT_STREAM;

use super::read_ahead::event_of;
use super::{EventLog, ReadError};
use crate::stored_event::StoredEvent;
use crate::stream_consumer::{ConsumerEnd, StreamConsumer, Stretch};

/// Subjects in one direct read: below what the server returns at most.
const SUBJECTS_A_REQUEST: usize = 1000;

/// The last event of every subject that matches one of some filters, page by page, in no order. A subject that is written
/// to meanwhile can come twice. Made by [`EventLog::last_of_each`].
#[derive(Debug)]
pub struct LastEvents {
    log: EventLog,
    filters: Vec<String>,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    NotBegun,
    ByConsumer(Box<StreamConsumer>),
    /// Subjects yet to be read.
    Direct(VecDeque<String>),
}

impl EventLog {
    /// The last event of every subject that matches one of the filters, which must not overlap. Unlike
    /// [`EventLog::last_of`] not limited in number, and not of one instant: what is appended while it is read may be in it or
    /// not. Reads through a consumer that lives as long as the reading, or by direct reads where none can be made. Needs
    /// operator rights.
    pub fn last_of_each(&self, filters: Vec<String>) -> LastEvents {
        LastEvents { log: self.clone(), filters, reading: Reading::NotBegun }
    }
}

impl LastEvents {
    /// The next page, never empty; `None` at the end. Not cancel safe: begin anew after an interruption.
    pub async fn next_page(&mut self) -> Result<Option<Vec<StoredEvent>>, ReadError> {
        loop {
            match &mut self.reading {
                Reading::NotBegun => {
                    let connection = self.log.connection();
                    match StreamConsumer::start(connection, EVENT_STREAM, &self.filters, Stretch::LastOfEach).await {
                        Ok(consumer) => self.reading = Reading::ByConsumer(Box::new(consumer)),
                        Err(error) => self.read_directly(&error).await?,
                    }
                }
                Reading::ByConsumer(consumer) => match consumer.next_page(event_of).await {
                    Ok(Some(page)) => return Ok(Some(page)),
                    Ok(None) => {
                        let ended = std::mem::replace(&mut self.reading, Reading::Direct(VecDeque::new()));
                        if let Reading::ByConsumer(consumer) = ended {
                            consumer.end().await;
                        }
                    }
                    Err(error) => self.read_directly(&error).await?,
                },
                Reading::Direct(names) => {
                    let part: Vec<String> = names.drain(..names.len().min(SUBJECTS_A_REQUEST)).collect();
                    if part.is_empty() {
                        return Ok(None);
                    }
                    let events = self.log.last_of(&part).await?.events;
                    if !events.is_empty() {
                        return Ok(Some(events));
                    }
                }
            }
        }
    }

    /// Reads all of them, from the beginning, by their names.
    async fn read_directly(&mut self, error: &ConsumerEnd) -> Result<(), ReadError> {
        tracing::debug!(error = %ErrorChain(error), "the last events are read by direct reads");
        let mut names = VecDeque::new();
        for filter in &self.filters {
            names.extend(self.log.subject_names(filter).await?);
        }
        self.reading = Reading::Direct(names);
        Ok(())
    }
}
