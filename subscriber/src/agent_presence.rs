//! Which agent lives on a cache, as other programs on its machine can see it.
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
pub struct AgentFacts {
    /// The node.
    pub node: NodeName,
    /// The bundle it runs.
    pub bundle: BundleName,
    /// The channel it follows; absent where its settings pin a tag.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channel: Option<ChannelName>,
    /// The tag that its settings pin.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tag: Option<Tag>,
    /// Its process id, for people.
    pub process_id: u32,
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
            bundle: "contracts".parse().unwrap(),
            channel: Some("production".parse().unwrap()),
            tag: None,
            process_id: 1,
        };
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(AgentPresence::find(&path), Some(AgentPresence { facts: None }));
        state.introduce(&facts).unwrap();
        assert_eq!(AgentPresence::find(&path), Some(AgentPresence { facts: Some(facts.clone()) }));
        drop(state);
        assert_eq!(AgentPresence::find(&path), Some(AgentPresence { facts: Some(facts) }));
    }
}
