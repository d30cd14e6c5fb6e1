//! The events of the log: every `bundle.*` type with its typed data.
//!
//! Described in `docs/ARCHITECTURE.md`, "Events".
//!
//! To add an event: one line in `event_type.rs`, its name in `bundle_events!` below, a data struct, its JSON Schema under
//! `contracts/schemas/`, a golden file under `shared/testdata/events/`. The compiler then points at every
//! place that must decide about it.

mod log_events;
mod node_conditions;
mod node_events;
mod release_events;

use serde_json::Value;

pub use self::log_events::{Checkpointed, PreviousCheckpoint};
pub use self::node_conditions::{
    FallbackActivated, FallbackCause, FallbackSource, RestoredRelease, Reverted, StaleDetected, TamperDamage,
    TamperDetected, TamperMode, TamperedPath, UpdateDetected,
};
pub use self::node_events::{
    DownloadFailed, FailedCheck, FetchStrategy, LoadSource, Loaded, RefreshAttempt, Staged, VerificationFailed,
};
pub use self::release_events::{
    ContinuedEpoch, DeltaReference, EpochStarted, GitFacts, Hold, ObjectReference, Promoted, PromotionCause, Published,
    Trigger, Withdrawn,
};
use crate::event_type::EventType;
use crate::identifiers::{BundleName, Tag};
use crate::source::Source;
use crate::subjects::{EventSubject, Scope};

macro_rules! bundle_events {
    ($($variant:ident),+ $(,)?) => {
        /// One event with its data. What each type says stands at [`EventType`].
        #[derive(Debug, Clone, PartialEq)]
        pub enum BundleEvent {
            $(#[doc = concat!("Data of `EventType::", stringify!($variant), "`.")] $variant($variant),)+
            /// An event whose type or schema version this version does not know.
            Unknown(UnknownEvent),
        }

        impl BundleEvent {
            /// The event's type.
            pub fn event_type(&self) -> EventType {
                match self {
                    $(Self::$variant(_) => EventType::$variant,)+
                    Self::Unknown(unknown) => unknown.event_type.clone(),
                }
            }

            /// The data as JSON.
            pub(crate) fn data(&self) -> Result<Value, serde_json::Error> {
                match self {
                    $(Self::$variant(data) => serde_json::to_value(data),)+
                    Self::Unknown(unknown) => Ok(unknown.data.clone()),
                }
            }

            /// Reads the data as this type has it.
            pub(crate) fn from_data(event_type: &EventType, data: &str) -> Result<Self, serde_json::Error> {
                match event_type {
                    $(EventType::$variant => serde_json::from_str(data).map(Self::$variant),)+
                    EventType::Other(_) => Self::unknown_from_data(event_type, data),
                }
            }
        }

        $(impl From<$variant> for BundleEvent {
            fn from(data: $variant) -> Self {
                Self::$variant(data)
            }
        })+
    };
}

// The same names as in `EventType`; the compiler notices one that is missing here.
bundle_events!(
    Published,
    Promoted,
    Withdrawn,
    RefreshAttempt,
    Staged,
    Loaded,
    VerificationFailed,
    DownloadFailed,
    FallbackActivated,
    StaleDetected,
    UpdateDetected,
    TamperDetected,
    Reverted,
    EpochStarted,
    Checkpointed
);

/// An event this version can keep and show, but not apply.
#[derive(Debug, Clone, PartialEq)]
pub struct UnknownEvent {
    /// Its type.
    pub event_type: EventType,
    /// Its data, untouched.
    pub data: Value,
}

impl BundleEvent {
    /// Keeps the data of a type or schema version that this version does not know.
    pub(crate) fn unknown_from_data(event_type: &EventType, data: &str) -> Result<Self, serde_json::Error> {
        let data = serde_json::from_str(data)?;
        Ok(Self::Unknown(UnknownEvent { event_type: event_type.clone(), data }))
    }

    /// The release the event is about.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Published(data) => Some(&data.tag),
            Self::Promoted(data) => Some(&data.tag),
            Self::Withdrawn(data) => Some(&data.tag),
            Self::RefreshAttempt(data) => Some(&data.tag),
            Self::Staged(data) => Some(&data.tag),
            Self::Loaded(data) => Some(&data.tag),
            Self::VerificationFailed(data) => Some(&data.tag),
            Self::DownloadFailed(data) => Some(&data.tag),
            Self::FallbackActivated(data) => Some(&data.tag),
            Self::StaleDetected(data) => Some(&data.tag),
            Self::UpdateDetected(data) => Some(&data.tag),
            Self::TamperDetected(data) => Some(&data.tag),
            Self::Reverted(data) => Some(&data.tag),
            Self::EpochStarted(_) | Self::Checkpointed(_) | Self::Unknown(_) => None,
        }
    }

    /// Type and bundle of an event that only nodes write.
    pub(crate) fn of_node(&self) -> Option<(EventType, &BundleName)> {
        Some(match self {
            Self::RefreshAttempt(data) => (EventType::RefreshAttempt, &data.bundle),
            Self::Staged(data) => (EventType::Staged, &data.bundle),
            Self::Loaded(data) => (EventType::Loaded, &data.bundle),
            Self::VerificationFailed(data) => (EventType::VerificationFailed, &data.bundle),
            Self::DownloadFailed(data) => (EventType::DownloadFailed, &data.bundle),
            Self::FallbackActivated(data) => (EventType::FallbackActivated, &data.bundle),
            Self::StaleDetected(data) => (EventType::StaleDetected, &data.bundle),
            Self::UpdateDetected(data) => (EventType::UpdateDetected, &data.bundle),
            Self::TamperDetected(data) => (EventType::TamperDetected, &data.bundle),
            Self::Reverted(data) => (EventType::Reverted, &data.bundle),
            Self::Published(_)
            | Self::Promoted(_)
            | Self::Withdrawn(_)
            | Self::EpochStarted(_)
            | Self::Checkpointed(_)
            | Self::Unknown(_) => return None,
        })
    }

    /// What the envelope's `subject` says: the tag, or the stream of an event about the log itself.
    pub(crate) fn envelope_subject(&self) -> Option<&str> {
        if let Self::EpochStarted(EpochStarted { stream, .. }) | Self::Checkpointed(Checkpointed { stream, .. }) = self
        {
            return Some(stream);
        }
        self.tag().map(Tag::as_str)
    }

    /// The one subject this event may be stored under when this source writes it; `None` where the source
    /// may not say such a thing, and for unknown events.
    pub fn stored_subject(&self, source: &Source) -> Option<EventSubject> {
        match (self, source) {
            (Self::Published(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::release_announcement(&data.bundle, &data.tag))
            }
            (Self::Promoted(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::channel_head(&data.bundle, &data.channel))
            }
            (Self::Withdrawn(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::new(EventType::Withdrawn, data.bundle.clone(), Scope::Release(data.tag.clone())))
            }
            (Self::EpochStarted(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::epoch_started(&data.stream))
            }
            (Self::Checkpointed(data), Source::Publisher(_) | Source::Operator(_)) => {
                Some(EventSubject::checkpointed(&data.stream))
            }
            (event, Source::Node(node)) => event
                .of_node()
                .map(|(event_type, bundle)| EventSubject::new(event_type, bundle.clone(), Scope::Node(node.clone()))),
            (
                Self::RefreshAttempt(_)
                | Self::Staged(_)
                | Self::Loaded(_)
                | Self::VerificationFailed(_)
                | Self::DownloadFailed(_)
                | Self::FallbackActivated(_)
                | Self::StaleDetected(_)
                | Self::UpdateDetected(_)
                | Self::TamperDetected(_)
                | Self::Reverted(_)
                | Self::Unknown(_),
                Source::Publisher(_) | Source::Operator(_),
            ) => None,
        }
    }
}
