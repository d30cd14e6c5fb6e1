//! What a publish would do, found out without writing anything.
//!
//! The release is really built, so digests and sizes are those that the publish itself would give. Between preview and
//! publish somebody else may act; the publish decides anew.

use shared::daemon::ErrorChain;
use shared::event::Published;
use shared::identifiers::{ActorName, Tag};
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;

use crate::announcement::{AnnouncedRelease, announcement_of};
use crate::build::{SourceContent, build};
use crate::channel::{AutomaticPromotion, FrozenSince, would_be_left_alone};
use crate::channel_history::ChannelHistory;
use crate::delta::{DeltaTarget, Purpose, deltas};
use crate::progress::Progress;
use crate::publish_cycle::{
    Comparison, Decision, Novelty, PublishError, PublishRequest, decide, facts, gates, new_facts,
};
use crate::release_register::ReleaseRegister;

/// What a publish would do.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishPreview {
    /// The release as it would be announced, or is.
    pub release: Published,
    /// Where the log has it, if it has.
    pub stream_sequence: Option<u64>,
    /// What the publish would add to the log about it.
    pub novelty: Novelty,
    /// What would become of the channel; `None` where none was to be moved.
    pub channel: Option<PreviewedMove>,
    /// Why a publish would be refused before anything is stored: the channel is frozen.
    pub frozen: Option<FrozenSince>,
    /// How the contracts compare with the release that their readers have now.
    pub compatibility: Option<Comparison>,
}

/// What would become of a channel.
#[derive(Debug, Clone, PartialEq)]
pub enum PreviewedMove {
    /// It would point at the release.
    Move {
        /// Where it points now.
        from: Option<Tag>,
    },
    /// It would stay where it is.
    Stay(AutomaticPromotion),
}

/// Finds out what [`crate::publish_cycle::publish`] would do. Writes nothing; refuses what a publish would refuse, but
/// a frozen channel and incompatible contracts, which the preview names instead. Without a log the server has none yet.
pub async fn preview(
    stores: Option<(&EventLog, &ReleaseStore)>,
    actor: &ActorName,
    content: &SourceContent,
    request: &PublishRequest,
    progress: &Progress,
) -> Result<PublishPreview, PublishError> {
    let (register, history) = match stores {
        None => (ReleaseRegister::default(), None),
        Some((log, _)) => {
            let register = ReleaseRegister::read(log, &request.bundle).await.map_err(PublishError::Read)?;
            (register, gates::channel_history(log, request).await?)
        }
    };
    let decision = decide(&register, content.content_digest(), request)?;
    gates::check_content(content, &decision).await?;
    let compatibility = match stores {
        None => None,
        Some((_, bucket)) => match gates::compare(bucket, &register, history.as_ref(), content, request).await {
            // Nobody asked for it, so what cannot be compared is no reason to say nothing at all.
            Err(PublishError::Base(error)) if !request.require_compatible && request.base.is_none() => {
                tracing::warn!(error = %ErrorChain(&error), "compatibility cannot be judged");
                None
            }
            compared => compared?,
        },
    };
    let (release, stream_sequence, novelty) = match decision {
        Decision::Unchanged(release) => known(release, Novelty::Unchanged),
        Decision::AlreadyAnnounced(release) => known(release, Novelty::AlreadyAnnounced),
        Decision::AnnounceAgain(tag) => {
            let release = built(stores, &register, actor, content, request, &tag, progress).await?;
            let sequence = register.find(&tag).map(|(_, sequence)| sequence);
            (Published { trigger: request.trigger, ..release }, sequence, Novelty::AnnouncedAgain)
        }
        Decision::Release(tag) => {
            (built(stores, &register, actor, content, request, &tag, progress).await?, None, Novelty::Announced)
        }
    };
    let frozen = gates::frozen(request, history.as_ref());
    let channel = request.channel.as_ref().map(|_| previewed_move(&history.unwrap_or_default(), &release));
    Ok(PublishPreview { release, stream_sequence, novelty, channel, frozen, compatibility })
}

fn known(release: AnnouncedRelease, novelty: Novelty) -> (Published, Option<u64>, Novelty) {
    (release.published, Some(release.stream_sequence), novelty)
}

fn previewed_move(history: &ChannelHistory, release: &Published) -> PreviewedMove {
    match would_be_left_alone(history, release) {
        Some(left_alone) => PreviewedMove::Stay(left_alone),
        None => PreviewedMove::Move { from: history.head().map(|head| head.promoted.tag.clone()) },
    }
}

async fn built(
    stores: Option<(&EventLog, &ReleaseStore)>,
    register: &ReleaseRegister,
    actor: &ActorName,
    content: &SourceContent,
    request: &PublishRequest,
    tag: &Tag,
    progress: &Progress,
) -> Result<Published, PublishError> {
    let facts = match stores {
        None => new_facts(request, tag),
        Some((_, bucket)) => facts(bucket, content.content_digest(), request, tag).await?,
    };
    let built = build(content.clone(), facts, request.limits, progress.clone()).await.map_err(PublishError::Build)?;
    let objects = [built.archive_reference(), built.release_reference()];
    let announced = announcement_of(built.release(), built.facts(), objects, actor);
    let Some(stores) = stores else { return Ok(announced) };
    let kept = register.find(tag).map(|(earlier, _)| earlier.deltas.as_slice()).unwrap_or_default();
    let tree = content.tree(built.facts()).map_err(PublishError::Build)?;
    let facts = built.facts().clone();
    let target = DeltaTarget { announced: announced.clone(), facts, tree, limits: request.limits };
    let deltas = deltas(stores, register, target, kept, request.deltas, Purpose::Preview, progress).await;
    Ok(Published { deltas, ..announced })
}
