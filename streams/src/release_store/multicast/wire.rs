//! What readers of one object hear of each other. See `shared::subjects` for the names.
//!
//! Readers never publish here: their credentials need not allow it. They ask the server for something and name this
//! subject for the answer. An answer that says "nothing found" is how a reader shows that it is there.

use std::fmt;
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use rand::RngExt as _;
use shared::subjects::{MULTICAST_CHUNKS, MULTICAST_PRESENCE, multicast_prefix};

use crate::release_store::object_meta::chunk_subject;

const BEHIND: &str = "behind";

/// Who reads: a random name for one reading.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ReaderId(pub(super) u64);

impl ReaderId {
    pub(super) fn random() -> Self {
        Self(rand::rng().random())
    }
}

impl fmt::Display for ReaderId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl fmt::Debug for ReaderId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// What a message on a reader's subjects says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A reader is there.
    Present(ReaderId),
    /// A chunk, as the server says; `stamp` is the asking reader's clock.
    Chunk { reader: ReaderId, stamp: u64, behind: u64, sequence: u64, payload: Bytes },
    /// The end of what a reader has asked for.
    End { reader: ReaderId },
    /// Nothing of use.
    Nothing,
}

/// What a message on our own inbox says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A chunk.
    Chunk { behind: u64, sequence: u64, payload: Bytes },
    /// The end of a batch.
    End,
    /// No chunk stands where it should.
    Missing,
    /// Nobody serves the stream.
    NoResponders,
    /// The server does not understand the request.
    Refused(u16),
}

/// Where answers to everybody go that bring chunks.
pub(super) fn chunks_subject(nuid: &str, reader: ReaderId, stamp: u64) -> String {
    format!("{}{reader}.{MULTICAST_CHUNKS}.{stamp}", multicast_prefix(nuid))
}

/// Where an answer to everybody goes that only says that a reader is there.
pub(super) fn presence_subject(nuid: &str, reader: ReaderId) -> String {
    format!("{}{reader}.{MULTICAST_PRESENCE}", multicast_prefix(nuid))
}

/// Everything that readers of an object hear of each other.
pub(super) fn all_subjects(nuid: &str) -> String {
    format!("{}>", multicast_prefix(nuid))
}

/// Where an answer goes that only tells a leader that a reader is this many milliseconds behind it. No object's part of
/// the names: those have more letters.
pub(super) fn behind_subject(leader: ReaderId, lag: Duration) -> String {
    format!("{}{leader}.{}", multicast_prefix(BEHIND), lag.as_millis())
}

/// What a leader hears of those behind it.
pub(super) fn behind_subjects(leader: ReaderId) -> String {
    format!("{}{leader}.*", multicast_prefix(BEHIND))
}

/// How far behind a reader is, as it says.
pub(super) fn behind(leader: ReaderId, message: &Message) -> Option<Duration> {
    let lag = message.subject.as_str().strip_prefix(&multicast_prefix(BEHIND))?.strip_prefix(&format!("{leader}."))?;
    lag.parse().ok().map(Duration::from_millis)
}

/// Takes a message of another reader's asking, or of our own.
pub(super) fn heard(nuid: &str, message: Message) -> Heard {
    let mut tokens = message.subject.as_str().strip_prefix(&multicast_prefix(nuid)).unwrap_or_default().split('.');
    let reader = tokens.next().filter(|token| token.len() == 16);
    let Some(reader) = reader.and_then(|token| u64::from_str_radix(token, 16).ok()).map(ReaderId) else {
        return Heard::Nothing;
    };
    match (tokens.next(), tokens.next(), tokens.next()) {
        (Some(MULTICAST_PRESENCE), None, None) => Heard::Present(reader),
        (Some(MULTICAST_CHUNKS), Some(stamp), None) => {
            let Ok(stamp) = stamp.parse() else { return Heard::Nothing };
            match answer(nuid, message) {
                Answer::Chunk { behind, sequence, payload } => {
                    Heard::Chunk { reader, stamp, behind, sequence, payload }
                }
                Answer::End => Heard::End { reader },
                Answer::Missing | Answer::NoResponders | Answer::Refused(_) => Heard::Nothing,
            }
        }
        _ => Heard::Nothing,
    }
}

/// Takes an answer of the server.
pub(super) fn answer(nuid: &str, message: Message) -> Answer {
    let headers = message.headers.as_ref();
    // Whoever stores a message writes its status line: the server's own headers say that it is a stored one.
    if let (Some(sequence), Some(behind)) = (number(headers, "Nats-Sequence"), number(headers, "Nats-Num-Pending")) {
        let subject = last(headers, "Nats-Subject");
        return if subject == Some(chunk_subject(nuid).as_str()) {
            Answer::Chunk { behind, sequence, payload: message.payload }
        } else {
            Answer::Missing
        };
    }
    match message.status.map(|status| status.as_u16()) {
        Some(204) => Answer::End,
        Some(404) | None => Answer::Missing,
        Some(status) if status == StatusCode::NO_RESPONDERS.as_u16() => Answer::NoResponders,
        Some(status) => Answer::Refused(status),
    }
}

fn number(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    last(headers, name)?.parse().ok()
}

/// The last value: the server adds its own behind those that were stored.
fn last<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    headers?.get_all(name).last().map(async_nats::HeaderValue::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, status: Option<u16>, headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        Message {
            subject: subject.into(),
            reply: None,
            payload: Bytes::from_static(b"abc"),
            headers: Some(map),
            status: status.map(|status| StatusCode::from_u16(status).unwrap()),
            description: None,
            length: 0,
        }
    }

    const CHUNK: [(&str, &str); 3] =
        [("Nats-Sequence", "12"), ("Nats-Num-Pending", "3"), ("Nats-Subject", "$O.BUNDLES.C.N")];

    #[test]
    fn what_is_said_is_what_is_heard() {
        let reader = ReaderId(0xab);
        let chunk = heard("N", message(&chunks_subject("N", reader, 7), None, &CHUNK));
        let payload = Bytes::from_static(b"abc");
        assert_eq!(chunk, Heard::Chunk { reader, stamp: 7, behind: 3, sequence: 12, payload });
        let present = message(&presence_subject("N", reader), Some(404), &[]);
        assert_eq!(heard("N", present), Heard::Present(reader));
        assert_eq!(heard("N", message(&chunks_subject("N", reader, 7), Some(204), &[])), Heard::End { reader });
    }

    #[test]
    fn anything_else_is_nothing() {
        let reader = ReaderId(1);
        for subject in [
            "multicast.BUNDLES.N.1.chunk.7",
            "multicast.BUNDLES.M.0000000000000001.chunk.7",
            "multicast.BUNDLES.N.0000000000000001.chunk.x",
            "multicast.BUNDLES.N.0000000000000001.chunk.7.8",
            "multicast.BUNDLES.N.0000000000000001.what",
            "multicast.BUNDLES.N.+00000000000000g.present",
        ] {
            assert_eq!(heard("N", message(subject, None, &CHUNK)), Heard::Nothing, "{subject}");
        }
        let foreign = [("Nats-Sequence", "12"), ("Nats-Num-Pending", "3"), ("Nats-Subject", "$O.BUNDLES.C.M")];
        assert_eq!(heard("N", message(&chunks_subject("N", reader, 7), None, &foreign)), Heard::Nothing);
        assert_eq!(heard("N", message(&chunks_subject("N", reader, 7), Some(503), &[])), Heard::Nothing);
    }

    #[test]
    fn a_leader_hears_how_far_behind_another_one_is() {
        let said = |lag| behind(ReaderId(1), &message(&behind_subject(ReaderId(1), lag), Some(404), &[]));
        assert_eq!(said(Duration::from_millis(250)), Some(Duration::from_millis(250)));
        let other = message(&behind_subject(ReaderId(2), Duration::ZERO), Some(404), &[]);
        assert_eq!(behind(ReaderId(1), &other), None);
        assert_eq!(heard("N", other), Heard::Nothing);
        assert_eq!(behind(ReaderId(1), &message("multicast.BUNDLES.behind.0000000000000001.x", None, &[])), None);
    }

    #[test]
    fn a_stored_status_line_is_no_end() {
        let stored = message("_INBOX.x", Some(204), &CHUNK);
        assert!(matches!(answer("N", stored), Answer::Chunk { sequence: 12, behind: 3, .. }));
        assert_eq!(answer("N", message("_INBOX.x", Some(408), &[])), Answer::Refused(408));
        assert_eq!(answer("N", message("_INBOX.x", Some(503), &[])), Answer::NoResponders);
    }
}
