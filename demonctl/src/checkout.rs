//! Fetching a release to a place on this machine, for `contracts fetch-bundle` and `bundle fetch`.
//!
//! Decides which form the destination gets, and whether an agent that lives on it is told to keep the release.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use chrono::Utc;
use clap::Args;
use serde_json::{Value, json};
use shared::event::Promoted;
use shared::identifiers::{ActorName, BundleName, ChannelName, NodeName, Tag};
use shared::release::Release;
use streams::connection::Connection;
use streams::connection_arguments::ConnectionArguments;
use subscriber::agent_presence::AgentPresence;
use subscriber::cache::Cache;
use subscriber::checkout::has_cache_layout;
use subscriber::local_pin::{LocalPin, PinnedAt};

use crate::operator;
use crate::output::note;

/// Where an agent keeps its releases unless told otherwise.
pub(crate) const DEFAULT_CACHE: &str = ".demon/contracts";
const DEFAULT_CHANNEL: &str = "latest";

/// Login for commands that only read: a node's suffices.
#[derive(Debug, Args)]
pub(crate) struct ReaderArguments {
    /// Name of the node whose login this is: replies then come to its own inbox, `_INBOX_<name>`.
    #[arg(long, env = "DEMON_NODE_ID", value_name = "NAME")]
    node: Option<NodeName>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl ReaderArguments {
    fn arguments(&self) -> ConnectionArguments {
        let mut arguments = self.connection.clone();
        if let (Some(node), None) = (&self.node, &arguments.inbox_prefix) {
            arguments.inbox_prefix = Some(format!("_INBOX_{node}"));
        }
        arguments
    }

    /// The effective settings of the connection, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        operator::connection_settings(&self.arguments())
    }

    /// Connects, or says in one line why not.
    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        operator::connect(&self.arguments()).await
    }
}

/// The agent that may live on the destination.
#[derive(Debug, Args)]
pub(crate) struct AgentOnDestination {
    /// State directory of the agent that serves the destination [default: `agent` beside it]. Such an agent keeps what
    /// is fetched until its channel next moves.
    #[arg(long, env = "DEMON_STATE_DIR", value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// An agent's cache; where the destination is this directory, it gets the agent's layout
    #[arg(long, env = "DEMON_CONTRACTS_CACHE", value_name = "DIRECTORY", default_value = DEFAULT_CACHE)]
    cache: PathBuf,
}

/// Where a release goes, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// As it was typed.
    pub(crate) given: PathBuf,
    /// Absolute: a checksum file repeats it.
    pub(crate) absolute: PathBuf,
    /// Whether it gets the layout of an agent's cache.
    pub(crate) is_cache: bool,
}

impl Destination {
    /// A cache where one is or was, and at its usual places; else a plain directory.
    pub(crate) fn new(given: &Path, agent: &AgentOnDestination) -> anyhow::Result<Self> {
        let absolute =
            |path: &Path| std::path::absolute(path).with_context(|| format!("`{}` is no usable path", path.display()));
        // Components, so that a `/` at the end plays no part.
        let resolved: PathBuf = absolute(given)?.components().collect();
        let mut is_cache = has_cache_layout(&resolved);
        for path in [Path::new(DEFAULT_CACHE), &agent.cache] {
            is_cache |= absolute(path)?.components().collect::<PathBuf>() == resolved;
        }
        Ok(Self { given: given.to_owned(), absolute: resolved, is_cache })
    }
}

/// What the log says that a pin rests on; nothing where the release did not come through the log.
#[derive(Debug, Default)]
pub(crate) struct LogFacts {
    pub(crate) log: Option<PinnedAt>,
    pub(crate) heads: BTreeMap<ChannelName, (u64, Promoted)>,
}

/// What an agent on the destination does about the release.
#[derive(Debug)]
pub(crate) enum AgentSide {
    /// There is no agent.
    None,
    /// The release is what its channel points at, or its settings decide.
    Follows,
    /// It keeps the release until its channel next moves.
    Keeps(Box<LocalPin>, ChannelName),
}

impl AgentSide {
    /// Looks which agent lives there. One that runs another bundle is a reason to refuse.
    pub(crate) fn of(
        destination: &Destination,
        agent: &AgentOnDestination,
        bundle: &BundleName,
        release: &PinTarget,
        facts: &LogFacts,
        actor: Option<ActorName>,
    ) -> anyhow::Result<Self> {
        let state = agent.state_dir.clone();
        let state = state.unwrap_or_else(|| AgentPresence::default_state_directory(&destination.absolute));
        let presence = AgentPresence::find(&state);
        // A pin stands only where an agent is; this one may have its state elsewhere.
        if presence.is_none() && !matches!(LocalPin::load(&Cache::new(&destination.absolute)), Ok(Some(_)) | Err(_)) {
            return Ok(Self::None);
        }
        let facts_of_agent = presence.and_then(|presence| presence.facts);
        let said = facts_of_agent.as_ref().and_then(|agent| agent.on(&destination.absolute, bundle));
        if let (Some(agent), Some(said)) = (&facts_of_agent, said)
            && &said.bundle != bundle
        {
            bail!(
                "`{}` is the cache of node `{}`, which runs bundle `{}` there: choose another --dest",
                destination.given.display(),
                agent.node,
                said.bundle
            );
        }
        if let Some(tag) = said.and_then(|said| said.tag.as_ref()) {
            if tag != &release.tag {
                note(&format!(
                    "The agent on this cache is pinned to `{tag}` by its own settings (DEMON_CONTRACTS_TAG) and returns to it."
                ));
            }
            return Ok(Self::Follows);
        }
        let channel = match said.and_then(|said| said.channel.clone()) {
            Some(channel) => channel,
            None => DEFAULT_CHANNEL.parse()?,
        };
        let head = facts.heads.get(&channel).map(|(_, head)| head);
        if head.is_some_and(|head| head.tag == release.tag && head.tree_digest == release.tree_digest) {
            return Ok(Self::Follows);
        }
        let digests = (release.tag.clone(), release.tree_digest, release.content_digest);
        let pin = LocalPin::new(bundle.clone(), digests, actor, Utc::now(), facts.log);
        Ok(Self::Keeps(Box::new(pin), channel))
    }

    /// The pin to leave.
    pub(crate) fn pin(&self) -> Option<LocalPin> {
        match self {
            Self::Keeps(pin, _) => Some(LocalPin::clone(pin)),
            Self::None | Self::Follows => None,
        }
    }

    /// Whether an agent clears old releases away.
    pub(crate) fn has_agent(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Tells the person at the terminal what the agent will do.
    pub(crate) fn explain(&self) {
        if let Self::Keeps(pin, channel) = self {
            note(&format!(
                "The agent on this cache keeps `{}` until channel `{channel}` next moves; fetching what the channel \
                 points at ends that earlier.",
                pin.tag
            ));
        }
    }
}

/// What a pin names.
#[derive(Debug, Clone)]
pub(crate) struct PinTarget {
    pub(crate) tag: Tag,
    pub(crate) tree_digest: shared::digest::Sha256Digest,
    pub(crate) content_digest: shared::digest::Sha256Digest,
}

impl From<&shared::event::Published> for PinTarget {
    fn from(published: &shared::event::Published) -> Self {
        let (tree_digest, content_digest) = (published.tree_digest, published.content_digest);
        Self { tag: published.tag.clone(), tree_digest, content_digest }
    }
}

impl From<&Release> for PinTarget {
    fn from(release: &Release) -> Self {
        let (tree_digest, content_digest) = (release.tree_digest(), release.content_digest());
        Self { tag: release.tag().clone(), tree_digest, content_digest }
    }
}

impl AgentOnDestination {
    /// The effective settings.
    pub(crate) fn settings(&self) -> Value {
        json!({ "state_dir": self.state_dir, "cache": self.cache })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use shared::digest::Sha256Digest;
    use shared::event::{Hold, PromotionCause};

    use super::*;

    const FACTS: &str = r#"{"node":"edge-1","bundle":"contracts","channel":"production","process_id":1}"#;

    struct World {
        root: tempfile::TempDir,
        destination: Destination,
        agent: AgentOnDestination,
    }

    impl World {
        fn new(agent_says: Option<&str>) -> Self {
            let root = tempfile::tempdir().unwrap();
            if let Some(said) = agent_says {
                fs::create_dir(root.path().join("agent")).unwrap();
                fs::write(root.path().join("agent/agent.lock"), said).unwrap();
            }
            let agent = AgentOnDestination { state_dir: None, cache: root.path().join("contracts") };
            let destination = Destination::new(&root.path().join("contracts/"), &agent).unwrap();
            Self { root, destination, agent }
        }

        fn side(&self, bundle: &str, head: Option<&str>) -> anyhow::Result<AgentSide> {
            let target = target("v1");
            let heads = head.map(|tag| ("production".parse().unwrap(), (7, promoted(tag))));
            let facts = LogFacts { log: None, heads: heads.into_iter().collect() };
            AgentSide::of(&self.destination, &self.agent, &bundle.parse().unwrap(), &target, &facts, None)
        }
    }

    fn target(tag: &str) -> PinTarget {
        let digest = Sha256Digest::of(tag.as_bytes());
        PinTarget { tag: tag.parse().unwrap(), tree_digest: digest, content_digest: digest }
    }

    fn promoted(tag: &str) -> Promoted {
        Promoted {
            bundle: "contracts".parse().unwrap(),
            channel: "production".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: target(tag).tree_digest,
            previous_tag: None,
            cause: PromotionCause::Promote,
            hold: Hold::None,
            reason: None,
            actor: "ada".parse().unwrap(),
        }
    }

    #[test]
    fn a_destination_is_a_cache_where_one_usually_is_and_where_one_is() {
        let world = World::new(None);
        assert!(world.destination.is_cache, "the configured one, whatever slash it ends with");
        let other = |name: &str| Destination::new(&world.root.path().join(name), &world.agent).unwrap().is_cache;
        assert!(!other("validation"));
        fs::create_dir_all(world.root.path().join("validation/releases")).unwrap();
        fs::write(world.root.path().join("deleted.lock"), "").unwrap();
        assert!(other("validation") && other("deleted"));
        assert!(Destination::new(Path::new("./.demon/contracts"), &world.agent).unwrap().is_cache);
    }

    #[test]
    fn only_an_agent_that_follows_a_channel_elsewhere_is_told_to_keep_a_release() {
        assert!(matches!(World::new(None).side("contracts", Some("v2")).unwrap(), AgentSide::None));
        let following = World::new(Some(FACTS));
        let AgentSide::Keeps(pin, channel) = following.side("contracts", Some("v2")).unwrap() else { panic!() };
        assert_eq!((pin.tag.as_str(), channel.as_str()), ("v1", "production"));
        assert!(matches!(following.side("contracts", None).unwrap(), AgentSide::Keeps(..)));
        assert!(matches!(following.side("contracts", Some("v1")).unwrap(), AgentSide::Follows));
        let refused = following.side("policies", Some("v2")).unwrap_err().to_string();
        assert!(refused.contains("node `edge-1`, which runs bundle `contracts`"), "{refused}");
        let several = r#"{"node":"edge-1","process_id":1,"bundles":[{"bundle":"contracts","channel":"production"},
            {"bundle":"policies","tag":"p1"}]}"#;
        let AgentSide::Keeps(_, channel) = World::new(Some(several)).side("contracts", None).unwrap() else { panic!() };
        assert_eq!(channel.as_str(), "production");
        assert!(matches!(World::new(Some(several)).side("policies", None).unwrap(), AgentSide::Follows));
        let pinned = World::new(Some(r#"{"node":"edge-1","bundle":"contracts","tag":"v9","process_id":1}"#));
        assert!(matches!(pinned.side("contracts", Some("v2")).unwrap(), AgentSide::Follows));
        // An agent of an earlier version says nothing: the default channel is taken.
        let silent = World::new(Some(""));
        let AgentSide::Keeps(_, channel) = silent.side("contracts", Some("v1")).unwrap() else { panic!() };
        assert_eq!(channel.as_str(), "latest");
    }
}
