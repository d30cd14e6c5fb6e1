//! What each step of the demo does and checks. Every claim a step prints was read back from the log.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use chrono::{DateTime, Utc};
use publisher::announcement::announce;
use publisher::author::Author;
use publisher::channel::{ChannelMove, Freeze, MoveRequest, Order, move_channel, promote_published};
use publisher::progress::Silent;
use publisher::publish_cycle::store_release;
use publisher::stored_release::StoredRelease;
use publisher::tag::derive_tag;
use shared::event::{BundleEvent, Hold, Loaded, Promoted, PromotionCause, Published, VerificationFailed};
use shared::event_chain::EventDraft;
use shared::fleet_history::{self, FleetHistory};
use shared::identifiers::{ActorName, BundleName, ChannelName, NodeName};
use shared::source::Source;
use shared::subjects::EventSubject;
use streams::connection::Connection;
use streams::event_log::{AppendError, EventLog, Expectation, Reader};
use streams::event_writer::{EventWriter, WriteError, new_event_id};
use streams::release_store::{ReleaseStore, Tampering};
use streams::stored_event::StoredEvent;

use super::altered_contracts::copy_with_one_change;
use crate::event_text::bytes;
use crate::events::print_events;
use crate::fleet::print_status;
use crate::history_follower::HistoryFollower;
use crate::output::{OutputFormat, print_line};
use crate::stack::publishing::read_contracts;
use crate::stack::{LocalStack, publishing};

/// How long the fleet may take for one step. Generous: it is a bound, not a measurement.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// How long the server may take to refuse what an agent must not do.
const REFUSAL_LIMIT: Duration = Duration::from_secs(5);

/// What a step returns: its result, and lines for people.
type Shown<T> = anyhow::Result<(T, Vec<String>)>;

/// The running demo.
pub(super) struct Demo {
    pub(super) stack: LocalStack,
    contracts: PathBuf,
    changed: tempfile::TempDir,
    bundle: BundleName,
    channel: ChannelName,
    follower: HistoryFollower,
    publisher: Connection,
    author: Author,
}

impl Demo {
    /// Connects what the steps need.
    pub(super) async fn new(stack: LocalStack, contracts: PathBuf) -> anyhow::Result<Self> {
        let follower = HistoryFollower::start(stack.operator()).await?.keeping_events();
        let publisher = stack.connect_publisher().await?;
        let author = stack.publisher()?;
        Ok(Self {
            stack,
            contracts,
            changed: tempfile::tempdir().context("cannot make a temporary directory")?,
            bundle: publishing::bundle()?,
            channel: publishing::channel()?,
            follower,
            publisher,
            author,
        })
    }

    /// Creates what the job needs on the server, and says so in lines for people.
    pub(super) async fn provision(&self) -> anyhow::Result<Vec<String>> {
        let created = self.stack.provision(&demo_actor()?).await?;
        Ok(vec![format!("created {}", created.join(", "))])
    }

    pub(super) async fn publish_a(&mut self) -> Shown<Published> {
        let stored = self.store(self.contracts.clone()).await?;
        let published = self.announce_and_promote(&stored).await?;
        let line = format!(
            "{}: {} files, {}, archive {} in the bucket",
            published.tag,
            published.files,
            bytes(published.total_bytes),
            bytes(published.archive.size)
        );
        Ok((published, vec![line]))
    }

    pub(super) async fn start_agents(&mut self, a: &Published) -> Shown<()> {
        self.stack.start_agents(0)?;
        let loads = self.wait_until_all_run(a).await?;
        let lines =
            loads.iter().map(|load| format!("{}: runs {}, {} read", load.node, a.tag, bytes(load.loaded.wire_bytes)));
        Ok(((), lines.collect()))
    }

    pub(super) async fn publish_b(&mut self) -> Shown<Published> {
        let (stored, changed) = self.store_changed("release B").await?;
        let published = self.announce_and_promote(&stored).await?;
        let announced_at = self.stored_at(&published).await?;
        let loads = self.wait_until_all_run(&published).await?;
        let mut lines = vec![format!("{}: `{}` changed", published.tag, changed.display())];
        lines.extend(loads.iter().map(|load| {
            let elapsed = (load.switched_at - announced_at).num_milliseconds();
            format!("{}: published → switched in {elapsed} ms", load.node)
        }));
        Ok((published, lines))
    }

    pub(super) async fn refuse_c(&mut self, b: &Published) -> Shown<()> {
        self.refuse_altered("release C", Tampering::KeepMeta, b).await
    }

    pub(super) async fn refuse_d(&mut self, b: &Published) -> Shown<()> {
        self.refuse_altered("release D", Tampering::RecomputeMeta, b).await
    }

    /// Stores a release, alters every object of it in the bucket, then announces and promotes it as if nothing
    /// had happened. Every agent must refuse it and go on running `running`.
    async fn refuse_altered(&mut self, name: &str, tampering: Tampering, running: &Published) -> Shown<()> {
        let (stored, _) = self.store_changed(name).await?;
        let bucket = ReleaseStore::new(self.stack.operator().clone());
        for object in [stored.archive(), stored.release_json()] {
            bucket.tamper(&object.name, tampering).await.with_context(|| format!("cannot alter `{}`", object.name))?;
        }
        let published = self.announce_and_promote(&stored).await?;
        let nodes = self.stack.nodes().to_vec();
        let refusals = self
            .follower
            .wait_for(STEP_LIMIT, |history, events| {
                nodes
                    .iter()
                    .map(|node| refusal(history, events, node, &published, running))
                    .collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let mut lines = vec![format!("{}: every object altered, same sizes", published.tag)];
        for (node, refusal) in nodes.iter().zip(refusals) {
            lines.push(format!("{node}: bundle.verification_failed at {}", refusal.item));
            lines.push(format!("    expected {}", refusal.expected));
            lines.push(format!("    actual   {}", refusal.actual));
            lines.push(format!("    still runs {}", running.tag));
        }
        Ok(((), lines))
    }

    pub(super) async fn refuse_promotion(&mut self, b: &Published) -> Shown<()> {
        let node = self.stack.nodes().first().context("the demo has no node")?.clone();
        let log = EventLog::new(self.stack.operator().clone());
        let head = EventSubject::channel_head(&self.bundle, &self.channel);
        let before = self.head_sequence(&log, &head).await?;
        let connection = self.stack.connect_node(&node).await?;
        let mut faults = connection.server_faults();
        let forged = Promoted {
            bundle: self.bundle.clone(),
            channel: self.channel.clone(),
            tag: b.tag.clone(),
            tree_digest: b.tree_digest,
            previous_tag: None,
            cause: PromotionCause::Promote,
            hold: Hold::None,
            reason: Some("forged by the demo".to_owned()),
            actor: demo_actor()?,
        };
        let mut writer = EventWriter::in_memory(Source::Operator(demo_actor()?));
        let draft = EventDraft { id: new_event_id(), time: Utc::now(), event: forged.into() };
        let expectation = Expectation::OnOwnSubject(before);
        let refused = writer.append(&EventLog::new(connection.clone()), &draft, expectation, REFUSAL_LIMIT).await;
        match refused {
            Err(WriteError::Append(AppendError::PermissionDenied { .. })) => {}
            Err(error) => return Err(error).context("the server did not refuse with a permissions violation"),
            Ok(appended) => bail!("an agent could promote: stored at sequence {}", appended.stream_sequence),
        }
        let words = faults.try_recv().context("the server's words did not arrive")?.to_string();
        let after = self.head_sequence(&log, &head).await?;
        ensure!(before == after, "the head moved from sequence {before} to {after}");
        connection.drain().await;
        Ok(((), vec![format!("{node}: {words}"), format!("the head is still at sequence {after}")]))
    }

    pub(super) async fn roll_back(&mut self, a: &Published) -> Shown<()> {
        let log = EventLog::new(self.stack.operator().clone());
        let mut operator = Author::operator(demo_actor()?);
        let request = MoveRequest {
            bundle: self.bundle.clone(),
            channel: self.channel.clone(),
            order: Order::Rollback(Some(a.tag.clone())),
            reason: Some("the demo rolls back".to_owned()),
            freeze: Freeze::Respect,
        };
        let ChannelMove::Moved(_) = move_channel(&log, &mut operator, &request).await? else {
            bail!("the channel pointed at {} already", a.tag);
        };
        let loads = self.wait_until_all_run(a).await?;
        let mut lines = vec![format!("channel {} points at {} again and is held", self.channel, a.tag)];
        lines.extend(loads.iter().map(|load| format!("{}: runs {} from its cache, 0 bytes read", load.node, a.tag)));
        Ok(((), lines))
    }

    pub(super) async fn replay(&mut self) -> Shown<()> {
        let count = self.follower.wait_for(STEP_LIMIT, |history, events| {
            if history.oddities.is_empty() { Ok(events.len()) } else { Err(format!("{:?}", history.oddities)) }
        });
        let count = count.await?;
        Ok(((), vec![format!("{count} events, read back from the stream and folded")]))
    }

    /// The whole history as a table, and what it says runs where.
    pub(super) fn print_history(&self) -> anyhow::Result<()> {
        print_line("")?;
        print_events(OutputFormat::Table, self.follower.events())?;
        print_line("")?;
        print_status(OutputFormat::Table, self.follower.history())
    }

    async fn store_changed(&self, name: &str) -> anyhow::Result<(StoredRelease, PathBuf)> {
        let directory = self.changed.path().join(name.replace(' ', "-"));
        let changed = copy_with_one_change(&self.contracts, &directory, &format!("changed by the demo for {name}"))?;
        Ok((self.store(directory).await?, changed))
    }

    /// Builds a release, puts it into the bucket and compares what comes back.
    async fn store(&self, directory: PathBuf) -> anyhow::Result<StoredRelease> {
        let (content, request) = read_contracts(directory).await?;
        let commit = request.commit.as_ref();
        let tag = derive_tag(&request.bundle, request.timestamp, commit, content.content_digest())?;
        let bucket = ReleaseStore::new(self.publisher.clone());
        Ok(store_release(&bucket, &content, &request, &tag, &Silent::shared()).await?)
    }

    async fn announce_and_promote(&mut self, stored: &StoredRelease) -> anyhow::Result<Published> {
        let log = EventLog::new(self.publisher.clone());
        let announced = announce(&log, &mut self.author, stored).await?;
        promote_published(&log, &mut self.author, &announced, &self.channel).await?;
        Ok(announced.published)
    }

    async fn stored_at(&mut self, published: &Published) -> anyhow::Result<DateTime<Utc>> {
        let subject = EventSubject::release_announcement(&published.bundle, &published.tag).to_string();
        self.follower
            .wait_for(STEP_LIMIT, |_, events| {
                let found = events.iter().rev().find(|event| event.subject == subject);
                found.map(|event| event.stored_at).ok_or_else(|| format!("`{subject}` is not in the log"))
            })
            .await
    }

    /// Waits until every node says that it runs the release.
    async fn wait_until_all_run(&mut self, release: &Published) -> anyhow::Result<Vec<Load>> {
        let nodes = self.stack.nodes().to_vec();
        let bundle = self.bundle.clone();
        let all_run = self.follower.wait_for(STEP_LIMIT, |history, _| {
            nodes.iter().map(|node| load(history, node, &bundle, release)).collect::<Result<Vec<_>, _>>()
        });
        let waited = tokio::select! {
            loads = all_run => loads,
            ended = self.stack.first_end() => Err(anyhow!(ended?)),
        };
        waited.with_context(|| format!("not every node runs {}{}", release.tag, self.stack.agent_logs()))
    }

    async fn head_sequence(&self, log: &EventLog, head: &EventSubject) -> anyhow::Result<u64> {
        let event = log.last(head, Reader::Leader).await?;
        Ok(event.with_context(|| format!("`{head}` has no event"))?.stream_sequence)
    }
}

/// One node's last switch.
struct Load {
    node: NodeName,
    loaded: Loaded,
    switched_at: DateTime<Utc>,
}

fn load(history: &FleetHistory, node: &NodeName, bundle: &BundleName, release: &Published) -> Result<Load, String> {
    let state = history.nodes.get(&(node.clone(), bundle.clone()));
    match state.and_then(|state| state.active.as_ref()) {
        Some((loaded, switched_at)) if loaded.tree_digest == release.tree_digest => {
            Ok(Load { node: node.clone(), loaded: loaded.clone(), switched_at: *switched_at })
        }
        Some((loaded, _)) => Err(format!("{node} runs {}", loaded.tag)),
        None => Err(format!("{node} runs nothing")),
    }
}

/// The node's refusal of a release, provided that it still runs the other one.
fn refusal(
    history: &FleetHistory,
    events: &[StoredEvent],
    node: &NodeName,
    refused: &Published,
    running: &Published,
) -> Result<VerificationFailed, String> {
    load(history, node, &running.bundle, running)?;
    let by_node = Source::Node(node.clone());
    let found = events.iter().rev().find_map(|event| {
        let envelope = fleet_history::read(&event.subject, &event.payload).ok()?;
        let BundleEvent::VerificationFailed(data) = envelope.event else { return None };
        (envelope.source == by_node && data.tag == refused.tag).then_some(data)
    });
    found.ok_or_else(|| format!("{node} has not refused {}", refused.tag))
}

fn demo_actor() -> anyhow::Result<ActorName> {
    Ok("demo".parse()?)
}
