//! Which agent lives on a machine, and on which caches, as other programs on its machine can see it.
//!
//! An agent says in its lock file what it follows. The file outlives it, so that this is known of a stopped agent too.
//! Nobody is signalled: a process id means nothing in another container, and the agent looks at its cache by itself.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::identifiers::{BundleName, ChannelName, NodeName, Tag};

use crate::durable_file::parent_of;
use crate::state_directory::AGENT_LOCK;

const MOST_BYTES: u64 = 16 * 1024;

/// What an agent says of itself in its lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredFacts")]
pub struct AgentFacts {
    /// The node.
    pub node: NodeName,
    /// What it runs, in the order of its settings.
    pub bundles: Vec<BundleFacts>,
    /// Its process id, for people.
    pub process_id: u32,
}

/// One bundle of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFacts {
    /// The bundle.
    pub bundle: BundleName,
    /// The channel it follows; absent where its settings pin a tag.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channel: Option<ChannelName>,
    /// The tag that its settings pin.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tag: Option<Tag>,
    /// Its cache; absent where an agent that ran one bundle only did not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cache: Option<PathBuf>,
}

/// The facts as a file holds them: of this version, or of one whose agents ran one bundle.
#[derive(Deserialize)]
struct StoredFacts {
    node: NodeName,
    #[serde(default)]
    bundles: Vec<BundleFacts>,
    #[serde(flatten)]
    only: Option<BundleFacts>,
    process_id: u32,
}

impl From<StoredFacts> for AgentFacts {
    fn from(stored: StoredFacts) -> Self {
        let bundles = if stored.bundles.is_empty() { stored.only.into_iter().collect() } else { stored.bundles };
        Self { node: stored.node, bundles, process_id: stored.process_id }
    }
}

/// An agent whose state directory was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPresence {
    /// What it last said of itself; `None` where it never did or that cannot be read.
    pub facts: Option<AgentFacts>,
}

impl AgentPresence {
    /// Where an agent on this cache keeps its state unless told otherwise: `agent` beside the cache.
    pub fn default_state_directory(cache: &Path) -> PathBuf {
        parent_of(cache).join("agent")
    }

    /// The agent of a state directory; `None` where none ever lived there. Whether it runs is not asked: its lock would
    /// have to be taken for that.
    pub fn find(state_directory: &Path) -> Option<Self> {
        let path = state_directory.join(AGENT_LOCK);
        match File::open(&path) {
            Ok(file) => {
                let mut text = Vec::new();
                let read = file.take(MOST_BYTES).read_to_end(&mut text);
                let facts = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
                Some(Self { facts })
            }
            // Another user's: there is one, and nothing is known of it.
            Err(_) if fs::symlink_metadata(&path).is_ok() => Some(Self { facts: None }),
            Err(_) => None,
        }
    }
}

impl AgentFacts {
    /// What the agent runs from a cache. Where it names the cache otherwise, as in a container, the same bundle is meant, or
    /// the only one.
    pub fn on(&self, cache: &Path, bundle: &BundleName) -> Option<&BundleFacts> {
        let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let wanted = resolved(cache);
        let mut bundles = self.bundles.iter();
        let here = bundles.find(|facts| facts.cache.as_deref().is_some_and(|path| resolved(path) == wanted));
        let only = if let [only] = &self.bundles[..] { Some(only) } else { None };
        here.or_else(|| self.bundles.iter().find(|facts| &facts.bundle == bundle)).or(only)
    }

    /// Writes the facts into a lock file that this process holds.
    pub(crate) fn write_to(&self, mut lock: &File) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        lock.set_len(0)?;
        lock.rewind()?;
        lock.write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_directory::StateDirectory;

    #[test]
    fn what_an_agent_said_of_itself_outlives_it() {
        let root = tempfile::tempdir().unwrap();
        let path = AgentPresence::default_state_directory(&root.path().join("contracts"));
        assert_eq!(AgentPresence::find(&path), None);
        let facts = AgentFacts {
            node: "edge-17".parse().unwrap(),
            bundles: vec![BundleFacts {
                bundle: "contracts".parse().unwrap(),
                channel: Some("production".parse().unwrap()),
                tag: None,
                cache: Some(root.path().join("contracts")),
            }],
            process_id: 1,
        };
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(AgentPresence::find(&path), Some(AgentPresence { facts: None }));
        state.introduce(&facts).unwrap();
        assert_eq!(AgentPresence::find(&path), Some(AgentPresence { facts: Some(facts.clone()) }));
        drop(state);
        assert_eq!(AgentPresence::find(&path), Some(AgentPresence { facts: Some(facts) }));
    }

    #[test]
    fn an_agent_of_an_earlier_version_is_understood() {
        let said = r#"{"node":"edge-1","bundle":"contracts","tag":"v9","process_id":1}"#;
        let facts: AgentFacts = serde_json::from_str(said).unwrap();
        assert_eq!(facts.bundles.len(), 1);
        assert_eq!((facts.bundles[0].bundle.as_str(), facts.bundles[0].cache.as_ref()), ("contracts", None));
        assert!(serde_json::from_str::<AgentFacts>("{}").is_err());
    }
}
