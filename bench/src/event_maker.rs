//! Events of a fleet as its nodes would have written them: numbered, chained, valid.

use anyhow::Context as _;
use async_nats::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use shared::digest::Sha256Digest;
use shared::event::{
    BundleEvent, FetchStrategy, Hold, LoadSource, Loaded, Promoted, PromotionCause, RefreshAttempt, Staged,
};
use shared::event_chain::{EventChain, EventDraft, SealedEvent};
use shared::event_envelope::CONTENT_TYPE;
use shared::identifiers::{BundleName, ChannelName, EventId, Incarnation, Tag};
use shared::source::Source;
use uuid::Uuid;

/// Events sent before the server is asked whether it has them: below what it queues for a stream.
const WINDOW: u64 = 4000;

/// Writes the history of a fleet that follows one channel through one release after the other.
#[derive(Debug)]
pub(crate) struct EventMaker {
    bundle: BundleName,
    channel: ChannelName,
    nodes: Vec<(Source, EventChain)>,
    started_at: DateTime<Utc>,
    made: u64,
}

impl EventMaker {
    /// A fleet of this many nodes; at least one.
    pub(crate) fn new(bundle: BundleName, channel: ChannelName, nodes: usize) -> anyhow::Result<Self> {
        let node = |number: usize| {
            let source: Source = format!("/nodes/{}", node_name(number)).parse().context("a node's name")?;
            anyhow::Ok((source, EventChain::new(incarnation()?, None)))
        };
        Ok(Self {
            bundle,
            channel,
            nodes: (0..nodes.max(1)).map(node).collect::<anyhow::Result<_>>()?,
            started_at: Utc::now(),
            made: 0,
        })
    }

    /// The next event: each release takes three of every node, the attempt, the staging and the switch.
    pub(crate) fn next(&mut self) -> anyhow::Result<SealedEvent> {
        let nodes = self.nodes.len() as u64;
        let (release, step) = (self.made / (3 * nodes), self.made / nodes % 3);
        let index = usize::try_from(self.made % nodes).unwrap_or(0);
        let event = self.event(release, step)?;
        let time = self.started_at + TimeDelta::milliseconds(i64::try_from(self.made).unwrap_or(0));
        let draft = EventDraft { id: event_id()?, time, event };
        let (source, chain) = &mut self.nodes[index];
        let sealed = chain.seal(source, &draft).context("an event cannot be written")?;
        *chain = chain.after(&sealed);
        self.made += 1;
        Ok(sealed)
    }

    /// The channel's move to a release, by an operator of its own.
    pub(crate) fn promoted(&self, tag: &Tag) -> anyhow::Result<SealedEvent> {
        let event = Promoted {
            bundle: self.bundle.clone(),
            channel: self.channel.clone(),
            tag: tag.clone(),
            tree_digest: tree_digest(tag),
            previous_tag: None,
            cause: PromotionCause::Promote,
            hold: Hold::None,
            reason: None,
            actor: "bench".parse().context("an actor's name")?,
        };
        let draft = EventDraft { id: event_id()?, time: self.started_at, event: event.into() };
        let source: Source = "/operators/bench".parse().context("a source")?;
        EventChain::new(incarnation()?, None).seal(&source, &draft).context("an event cannot be written")
    }

    fn event(&self, release: u64, step: u64) -> anyhow::Result<BundleEvent> {
        let tag = tag(release)?;
        let tree_digest = tree_digest(&tag);
        let bundle = self.bundle.clone();
        Ok(match step {
            0 => RefreshAttempt { bundle, tag, tree_digest, base_tag: None, strategy: FetchStrategy::Archive }.into(),
            1 => {
                Staged { bundle, tag, tree_digest, strategy: FetchStrategy::Archive, wire_bytes: 4096, duration_ms: 7 }
                    .into()
            }
            _ => Loaded {
                bundle,
                tag,
                tree_digest,
                content_digest: tree_digest,
                channel: Some(self.channel.clone()),
                source: LoadSource::Download,
                wire_bytes: 4096,
                previous_tag: None,
                duration_ms: 9,
                activation_epoch: release + 1,
                verified: true,
                unrecorded_switches: 0,
            }
            .into(),
        })
    }
}

/// Stores `number` events as fast as the server takes them and returns how many bytes they have.
pub(crate) async fn fill(client: &async_nats::Client, maker: &mut EventMaker, number: u64) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for place in 1..=number {
        let event = maker.next()?;
        bytes += event.bytes.len() as u64;
        if place % WINDOW == 0 || place == number {
            // The stream takes one connection's messages in order: with this one it has all before it.
            store(client, event).await?;
        } else {
            let (subject, headers) = (event.subject.to_string(), headers(&event));
            client.publish_with_headers(subject, headers, event.bytes.into()).await.context("an event is not sent")?;
        }
    }
    Ok(bytes)
}

/// Stores one event.
pub(crate) async fn store(client: &async_nats::Client, event: SealedEvent) -> anyhow::Result<()> {
    let (subject, headers) = (event.subject.to_string(), headers(&event));
    let answer = client.request_with_headers(subject, headers, event.bytes.into()).await;
    let text = String::from_utf8_lossy(&answer.context("the log does not take an event")?.payload).into_owned();
    anyhow::ensure!(!text.contains("\"error\""), "the log refuses an event: {text}");
    Ok(())
}

/// The headers that the product stores an event with.
fn headers(event: &SealedEvent) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", CONTENT_TYPE);
    headers.insert("Nats-Msg-Id", event.id.to_string());
    headers.insert("Nats-Expected-Stream", "BUNDLE_EVENTS");
    headers
}

/// Name of the node with this number.
pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number:05}")
}

/// Tag of the release with this number.
pub(crate) fn tag(number: u64) -> anyhow::Result<Tag> {
    format!("r{number}").parse().context("a tag")
}

/// Tree digest that the made events give a tag.
pub(crate) fn tree_digest(tag: &Tag) -> Sha256Digest {
    Sha256Digest::of(tag.as_str().as_bytes())
}

fn event_id() -> anyhow::Result<EventId> {
    Uuid::now_v7().to_string().parse().context("an event's id")
}

fn incarnation() -> anyhow::Result<Incarnation> {
    Uuid::new_v4().simple().to_string().parse().context("an incarnation")
}
