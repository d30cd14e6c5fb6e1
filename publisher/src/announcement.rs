//! Announcing a stored release: `bundle.published` on the tag's own subject.

use shared::event::{BundleEvent, ObjectReference, Published, Trigger};
use shared::identifiers::{ActorName, Tag};
use shared::release::Release;
use shared::subjects::EventSubject;
use streams::event_log::{AppendError, EventLog, ReadError, Reader};
use streams::event_writer::WriteError;
use streams::stored_event::StoredEvent;
use thiserror::Error;

use crate::author::Author;
use crate::release_facts::ReleaseFacts;
use crate::stored_release::StoredRelease;

/// Attempts before an announcement gives up against others on the same subject.
const ATTEMPTS: usize = 3;

/// A release whose announcement is in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct AnnouncedRelease {
    /// What the log says about it.
    pub published: Published,
    /// Where the log says so.
    pub stream_sequence: u64,
    /// Whether an earlier run had announced it.
    pub already_announced: bool,
}

/// A release that was not announced.
#[derive(Debug, Error)]
pub enum AnnounceError {
    /// The tag was announced with another tree.
    #[error("tag `{tag}` was announced with tree {announced}, this release has tree {tree}")]
    TagTaken {
        /// The tag.
        tag: Tag,
        /// The announced tree digest.
        announced: String,
        /// This release's.
        tree: String,
    },
    /// The log cannot be read.
    #[error("earlier announcements of the tag cannot be read")]
    Read(#[source] ReadError),
    /// The event was not stored, or its fate is unknown; running again finds out.
    #[error("the announcement is not in the log")]
    Write(#[source] WriteError),
}

/// Announces a stored release and returns only after the server has confirmed the event. The same release announced
/// before is success; the same tree stored anew as other objects is announced again; another tree is refused.
pub async fn announce(
    log: &EventLog,
    author: &mut Author,
    stored: &StoredRelease,
) -> Result<AnnouncedRelease, AnnounceError> {
    append(log, author, published(stored, author), Repeat::WhereDifferent).await
}

/// Announces a stored release once more although the log has it already, with what makes us do it now. Returns only
/// after the server has confirmed the event; another tree under the tag is refused.
pub async fn announce_again(
    log: &EventLog,
    author: &mut Author,
    stored: &StoredRelease,
    trigger: Trigger,
) -> Result<AnnouncedRelease, AnnounceError> {
    append(log, author, Published { trigger, ..published(stored, author) }, Repeat::Always).await
}

/// When a release that was announced before is announced once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Where the same tree lies in other objects now.
    WhereDifferent,
    Always,
}

async fn append(
    log: &EventLog,
    author: &mut Author,
    published: Published,
    repeat: Repeat,
) -> Result<AnnouncedRelease, AnnounceError> {
    let subject = EventSubject::release_announcement(&published.bundle, &published.tag);
    let mut attempt = 1;
    loop {
        let last = log.last(&subject, Reader::Leader).await.map_err(AnnounceError::Read)?;
        if let Some(earlier) = last.as_ref().and_then(as_published) {
            if earlier.tree_digest != published.tree_digest {
                return Err(AnnounceError::TagTaken {
                    tag: published.tag,
                    announced: earlier.tree_digest.to_string(),
                    tree: published.tree_digest.to_string(),
                });
            }
            let same_objects = (&earlier.archive, &earlier.release) == (&published.archive, &published.release);
            if same_objects && repeat == Repeat::WhereDifferent {
                let stream_sequence = last.map_or(0, |last| last.stream_sequence);
                return Ok(AnnouncedRelease { published: earlier, stream_sequence, already_announced: true });
            }
        }
        let after = last.map_or(0, |last| last.stream_sequence);
        match author.write(log, published.clone(), after).await {
            Ok(appended) => {
                let stream_sequence = appended.stream_sequence;
                return Ok(AnnouncedRelease { published, stream_sequence, already_announced: false });
            }
            // Somebody announces the same tag at this moment: what they said decides.
            Err(WriteError::Append(AppendError::Conflict { .. })) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(AnnounceError::Write(error)),
        }
    }
}

fn published(stored: &StoredRelease, author: &Author) -> Published {
    let objects = [stored.archive(), stored.release_json()];
    let deltas = stored.deltas().to_vec();
    Published { deltas, ..announcement_of(stored.release(), stored.facts(), objects, author.name()) }
}

/// What is said about a release whose archive and `release.json` lie in these objects, without its deltas.
pub(crate) fn announcement_of(
    release: &Release,
    facts: &ReleaseFacts,
    [archive, release_json]: [&ObjectReference; 2],
    actor: &ActorName,
) -> Published {
    Published {
        bundle: release.bundle().clone(),
        tag: release.tag().clone(),
        tree_digest: release.tree_digest(),
        content_digest: release.content_digest(),
        files: release.files().len() as u64,
        total_bytes: release.total_bytes(),
        archive: archive.clone(),
        release: release_json.clone(),
        deltas: Vec::new(),
        git: facts.git.clone(),
        trigger: facts.trigger,
        actor: actor.clone(),
    }
}

/// The announcement that a stored event is, if it is one. An unreadable one is written over: it announces nothing.
fn as_published(event: &StoredEvent) -> Option<Published> {
    let BundleEvent::Published(data) = event.envelope().ok()?.1.event else { return None };
    Some(data)
}
