//! What may keep a publish from happening, looked at before anything is stored.

use shared::event::Published;
use shared::identifiers::{BundleName, Tag};
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use thiserror::Error;
use tokio::task::spawn_blocking;

use super::{Decision, FrozenChannel, PublishError, PublishRequest};
use crate::build::SourceContent;
use crate::channel::{FrozenSince, read_history};
use crate::channel_history::ChannelHistory;
use crate::compatibility::{BreakingChange, breaking_changes};
use crate::contracts_document::{ContractsDocument, DocumentError, check};
use crate::release_comparison::{ReleaseComparisonError, announced_contracts};
use crate::release_register::ReleaseRegister;

/// How contracts compare with a release that their readers have.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The release they were compared with; `None` where there is none yet, so nothing can break.
    pub base: Option<Tag>,
    /// Every change that breaks a reader.
    pub breaking: Vec<BreakingChange>,
}

/// A release that contracts cannot be compared with.
#[derive(Debug, Error)]
pub enum BaseError {
    /// It was never announced.
    #[error("bundle `{bundle}` has no release `{tag}`")]
    Unknown {
        /// The bundle.
        bundle: BundleName,
        /// The tag.
        tag: Tag,
    },
    /// Its contracts cannot be had.
    #[error(transparent)]
    Release(#[from] ReleaseComparisonError),
}

/// The moves of the channel that a request is to move, where a gate asks for them.
pub(super) async fn needed_history(
    log: &EventLog,
    request: &PublishRequest,
) -> Result<Option<ChannelHistory>, PublishError> {
    if request.frozen_channel == FrozenChannel::Refuse || request.require_compatible {
        channel_history(log, request).await
    } else {
        Ok(None)
    }
}

/// The moves of the channel that a request is to move; `None` where it moves none.
pub(crate) async fn channel_history(
    log: &EventLog,
    request: &PublishRequest,
) -> Result<Option<ChannelHistory>, PublishError> {
    let Some(channel) = &request.channel else { return Ok(None) };
    read_history(log, &request.bundle, channel).await.map(Some).map_err(PublishError::Read)
}

/// Refuses contracts that no reader could use, where they are about to be announced: what is no JSON Schema, or refers
/// to what is not there.
pub(crate) async fn check_content(content: &SourceContent, decision: &Decision) -> Result<(), PublishError> {
    let announces = match decision {
        Decision::Unchanged(_) | Decision::AlreadyAnnounced(_) => false,
        Decision::AnnounceAgain(_) | Decision::Release(_) => true,
    };
    let (Some(document), true) = (content.bundle_json(), announces) else { return Ok(()) };
    let checked = spawn_blocking(move || check(&document)).await.map_err(PublishError::Interrupted)?;
    checked.map(|_| ()).map_err(|defects| PublishError::Defects { defects })
}

/// Refuses contracts that break who reads the release before them, where the request wants that.
pub(super) async fn refuse_incompatible(
    bucket: &ReleaseStore,
    register: &ReleaseRegister,
    history: Option<&ChannelHistory>,
    content: &SourceContent,
    request: &PublishRequest,
) -> Result<Option<Comparison>, PublishError> {
    if !request.require_compatible {
        return Ok(None);
    }
    let comparison = compare(bucket, register, history, content, request).await?;
    match comparison {
        None => Err(PublishError::NotComparable { bundle: request.bundle.clone() }),
        Some(Comparison { base: Some(base), breaking }) if !breaking.is_empty() => {
            Err(PublishError::Incompatible { base, breaking })
        }
        compatible => Ok(compatible),
    }
}

/// Compares contracts with the release that their readers have now: the one asked for, else the channel's, else the
/// newest. `None` where the content is no contracts.
pub(crate) async fn compare(
    bucket: &ReleaseStore,
    register: &ReleaseRegister,
    history: Option<&ChannelHistory>,
    content: &SourceContent,
    request: &PublishRequest,
) -> Result<Option<Comparison>, PublishError> {
    let Some(new) = content.bundle_json() else { return Ok(None) };
    let Some(base) = base(register, history, request).map_err(PublishError::Base)? else {
        return Ok(Some(Comparison { base: None, breaking: Vec::new() }));
    };
    let tag = base.tag.clone();
    if base.content_digest == content.content_digest() {
        return Ok(Some(Comparison { base: Some(tag), breaking: Vec::new() }));
    }
    let old =
        announced_contracts(bucket, base, request.limits).await.map_err(|error| PublishError::Base(error.into()))?;
    let compared = spawn_blocking(move || ContractsDocument::parse(&new).map(|new| breaking_changes(&old, &new))).await;
    match compared.map_err(PublishError::Interrupted)? {
        Ok(breaking) => Ok(Some(Comparison { base: Some(tag), breaking })),
        Err(DocumentError { defects }) => Err(PublishError::Defects { defects }),
    }
}

/// The release to compare with.
fn base<'a>(
    register: &'a ReleaseRegister,
    history: Option<&ChannelHistory>,
    request: &PublishRequest,
) -> Result<Option<&'a Published>, BaseError> {
    let head = history.and_then(ChannelHistory::head).map(|head| &head.promoted.tag);
    match request.base.as_ref().or(head) {
        Some(tag) => match register.find(tag) {
            Some((release, _)) => Ok(Some(release)),
            None => Err(BaseError::Unknown { bundle: request.bundle.clone(), tag: tag.clone() }),
        },
        None => Ok(register.newest().map(|(release, _)| release)),
    }
}

/// Refuses a publish to a frozen channel, where the request wants that.
pub(super) fn refuse_frozen(request: &PublishRequest, history: Option<&ChannelHistory>) -> Result<(), PublishError> {
    match frozen(request, history) {
        Some(frozen) => Err(PublishError::Frozen(frozen)),
        None => Ok(()),
    }
}

/// Whether the request wants to be refused for a frozen channel, and the channel is.
pub(crate) fn frozen(request: &PublishRequest, history: Option<&ChannelHistory>) -> Option<FrozenSince> {
    let (Some(channel), FrozenChannel::Refuse) = (&request.channel, request.frozen_channel) else { return None };
    history.and_then(|history| FrozenSince::of(channel, history))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use shared::event::{Hold, PromotionCause};

    use super::*;
    use crate::test_releases::{moved, published};

    fn release(tag: &str) -> Published {
        published(tag, tag)
    }

    fn pointing_at(tag: &str) -> ChannelHistory {
        ChannelHistory::of([moved(&release(tag), PromotionCause::Promote, Hold::None, 1)])
    }

    #[test]
    fn contracts_are_compared_with_what_their_readers_have() {
        let register = ReleaseRegister::of(["a", "b", "c"].map(release), None);
        let compared = |history: Option<&ChannelHistory>, asked: Option<&str>| {
            let request = PublishRequest {
                base: asked.map(|tag| tag.parse().unwrap()),
                ..PublishRequest::new("contracts".parse().unwrap(), DateTime::UNIX_EPOCH)
            };
            match base(&register, history, &request) {
                Ok(release) => release.map_or_else(|| "nothing".to_owned(), |release| release.tag.to_string()),
                Err(error) => error.to_string(),
            }
        };
        let (none, at_a, lost) = (ChannelHistory::default(), pointing_at("a"), pointing_at("z"));
        assert_eq!(compared(None, None), "c", "no channel is moved");
        assert_eq!(compared(Some(&none), None), "c", "the channel points nowhere yet");
        assert_eq!(compared(Some(&at_a), None), "a");
        assert_eq!(compared(Some(&at_a), Some("b")), "b");
        assert_eq!(compared(Some(&at_a), Some("z")), "bundle `contracts` has no release `z`");
        assert_eq!(compared(Some(&lost), None), "bundle `contracts` has no release `z`");
        let request = PublishRequest::new("contracts".parse().unwrap(), DateTime::UNIX_EPOCH);
        assert!(base(&ReleaseRegister::default(), Some(&none), &request).unwrap().is_none());
    }
}
