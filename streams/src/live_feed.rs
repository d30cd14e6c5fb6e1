//! Wake-ups: what the server republishes the moment an event is stored.
//!
//! At most once, and anybody in the listener's account can forge one: a wake-up says that looking now is worthwhile,
//! and nothing else.

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use shared::subjects::LIVE_PREFIX;
use thiserror::Error;
use tokio::time::timeout;

use crate::connection::Connection;

/// A hint that an event was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeUp {
    /// The event's subject.
    pub subject: String,
    /// Its place in the log, as claimed: a floor for the next read, for a bounded time.
    pub stream_sequence: Option<u64>,
    /// The event, as claimed. Good for guessing what the next read should bring along, and for nothing else.
    pub payload: Bytes,
}

/// A feed that could not be opened.
#[derive(Debug, Error)]
pub enum LiveFeedError {
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// The subscription could not even be queued.
    #[error("live subject `{subject}` could not be subscribed to in time")]
    TimedOut {
        /// The subject.
        subject: String,
    },
    /// No subjects were given, or one is no valid subject.
    #[error("`{subject}` is no live subject")]
    Subject {
        /// The subject.
        subject: String,
    },
}

/// Live subjects being listened to. Survives reconnects; what is stored meanwhile is not repeated.
pub struct LiveFeed {
    messages: SelectAll<Subscriber>,
}

impl LiveFeed {
    /// Listens to these subjects, each beginning with `live.`. A subject that the credentials do not allow shows as
    /// [`crate::server_fault::ServerFault::PermissionDenied`] on the connection and stays silent here.
    pub async fn subscribe(
        connection: &Connection,
        subjects: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, LiveFeedError> {
        let mut subscribers = Vec::new();
        for subject in subjects {
            let subject: String = subject.into();
            if !subject.starts_with(LIVE_PREFIX) {
                return Err(LiveFeedError::Subject { subject });
            }
            match timeout(connection.request_timeout(), connection.client().subscribe(subject.clone())).await {
                Ok(Ok(subscriber)) => subscribers.push(subscriber),
                Ok(Err(_)) => return Err(LiveFeedError::Closed),
                Err(_) => return Err(LiveFeedError::TimedOut { subject }),
            }
        }
        Ok(Self { messages: select_all(subscribers) })
    }

    /// The next wake-up; `None` once the connection is closed for good. Cancel safe.
    pub async fn next(&mut self) -> Option<WakeUp> {
        self.messages.next().await.map(|message| wake_up(&message))
    }
}

fn wake_up(message: &Message) -> WakeUp {
    let sequence = message.headers.as_ref().and_then(|headers| headers.get_last("Nats-Sequence"));
    let subject = message.subject.as_str();
    WakeUp {
        subject: subject.strip_prefix(LIVE_PREFIX).unwrap_or(subject).to_owned(),
        stream_sequence: sequence.and_then(|sequence| sequence.as_str().parse().ok()),
        payload: message.payload.clone(),
    }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;

    fn message(subject: &str, sequence: Option<&str>) -> Message {
        let mut headers = HeaderMap::new();
        if let Some(sequence) = sequence {
            headers.insert("Nats-Sequence", sequence);
        }
        Message {
            subject: subject.into(),
            reply: None,
            payload: Bytes::new(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_wake_up_names_subject_and_place() {
        let hint = wake_up(&message("live.bundle.promoted.c.channel.latest", Some("12")));
        assert_eq!(hint.subject, "bundle.promoted.c.channel.latest");
        assert_eq!(hint.stream_sequence, Some(12));
    }

    #[test]
    fn a_forged_one_still_only_wakes() {
        assert_eq!(wake_up(&message("live.x", Some("minus one"))).stream_sequence, None);
        assert_eq!(wake_up(&message("live.x", None)).stream_sequence, None);
    }
}
