//! Many nodes that read the same large object at the same time read it together: the server reads each chunk once and
//! sends it to all of them.
//!
//! A reader asks the server for a batch of chunks by Direct Get and names a subject for the answer on which all readers of
//! the object listen. What one of them asks for so, all receive; what one missed, it asks for itself. No publisher takes
//! part, nothing is announced, and the server keeps no state: `docs/adr/0023-readers-that-share-a-read.md`.
//!
//! Nothing that is heard is believed. Anybody in the account can send something else on these subjects, so the caller
//! compares the whole object's digest, and reads it in the ordinary way where that is another one.

mod chunk_map;
mod conduct;
mod pace;
mod reading;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::event::ObjectReference;
use thiserror::Error;
use tokio::time::Instant;

pub use self::reading::{PlacedChunk, SharedReading};
use super::{FetchError, ReleaseStore};

/// Time in which a process that was misled reads alone: somebody in the account may mislead it every time.
const ALONE: Duration = Duration::from_mins(10);

/// When objects are read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MulticastSettings {
    /// Objects of at least so many bytes; `None`: none.
    pub from_bytes: Option<u64>,
    /// Once at least so many readers are there, this one included. For few it is no faster, since a reader for all keeps
    /// to a rate that slow lines can follow.
    pub readers: usize,
}

/// What a process that reads together with others knows of it.
#[derive(Debug)]
pub(super) struct Multicast {
    settings: MulticastSettings,
    /// The credentials do not allow to listen.
    denied: AtomicBool,
    /// What came of it was not the object: not again before then.
    alone_until: Mutex<Option<Instant>>,
}

impl Multicast {
    fn is_alone(&self) -> bool {
        let until = *self.alone_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// Why an object could not be read together with others.
#[derive(Debug, Error)]
pub enum SharedReadError {
    /// It cannot be read at all at the moment.
    #[error(transparent)]
    Failed(FetchError),
    /// What arrived does not fit the object's description. Reading it in the ordinary way tells what is wrong, or works.
    #[error("the chunks of object `{object}` do not fit its description")]
    Misfit {
        /// The object.
        object: String,
    },
}

impl ReleaseStore {
    /// The same bucket, whose large objects [`ReleaseStore::open_together`] reads together with other nodes.
    #[must_use]
    pub fn together(self, settings: MulticastSettings) -> Self {
        let multicast = Multicast { settings, denied: AtomicBool::new(false), alone_until: Mutex::new(None) };
        Self { multicast: Some(Arc::new(multicast)), ..self }
    }

    /// What was read together with others was not the object: not again for ten minutes.
    pub fn read_alone_for_a_while(&self) {
        if let Some(multicast) = &self.multicast {
            *multicast.alone_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + ALONE);
        }
    }

    /// Begins to read an object together with others that read it now. `None` where that is switched off or not worth it,
    /// or where the object's description is not as expected: [`ReleaseStore::open`] says what is wrong then.
    pub async fn open_together(&self, expected: &ObjectReference) -> Result<Option<SharedReading>, FetchError> {
        let Some(multicast) = &self.multicast else { return Ok(None) };
        let large = multicast.settings.from_bytes.is_some_and(|from| expected.size >= from);
        if !large || multicast.denied.load(Ordering::Relaxed) || multicast.is_alone() {
            return Ok(None);
        }
        let described = self.info(&expected.name).await;
        let described = described.map_err(|source| FetchError::LookUp { object: expected.name.clone(), source })?;
        match described {
            Some(described) if described.size == expected.size => {
                SharedReading::begin(&self.connection, multicast.clone(), &described).await
            }
            Some(_) | None => Ok(None),
        }
    }
}
