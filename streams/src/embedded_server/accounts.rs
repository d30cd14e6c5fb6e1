//! Logins of an embedded server: two accounts, so that a node's rights end where they should.
//!
//! Inside one account a node could make the server store events in its name: answers to requests go to any subject,
//! whatever the requester may publish. So the streams live in `CONTROL`, and nodes in `AGENTS`, which imports nothing
//! but direct reads, live copies and each node's own subjects.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use shared::identifiers::NodeName;
use shared::subjects::{EVENT_STREAM, LIVE_PREFIX, NODE_TABLE, multicast_filter, node_filter};
use thiserror::Error;

use crate::durable_file;
use crate::layout::release_stream;
use crate::secret::Secret;

/// User with all rights in the account that owns the streams.
pub const OPERATOR: &str = "operator";
/// User of publishers. In the same account and with the same rights: no restricted user there is a boundary.
pub const PUBLISHER: &str = "publisher";
const SYSTEM: &str = "sys";
const PASSWORD_LENGTH: usize = 32;

/// An accounts file that cannot be used.
#[derive(Debug, Error)]
pub enum AccountsError {
    /// It cannot be read or written.
    #[error("accounts file `{}` cannot be read or written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("accounts file `{}` is not valid", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Users and their passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    operator: Secret,
    publisher: Secret,
    system: Secret,
    nodes: BTreeMap<NodeName, Secret>,
}

/// The file's form: the only place where passwords are written out, in a file for the owner only.
#[derive(Serialize, Deserialize)]
struct Stored {
    operator: String,
    publisher: String,
    system: String,
    nodes: BTreeMap<NodeName, String>,
}

impl Accounts {
    /// New passwords for everybody.
    pub fn generate(nodes: impl IntoIterator<Item = NodeName>) -> Self {
        Self {
            operator: new_password(),
            publisher: new_password(),
            system: new_password(),
            nodes: nodes.into_iter().map(|node| (node, new_password())).collect(),
        }
    }

    /// The same and these nodes, with new passwords for those that had none.
    #[must_use]
    pub fn with_nodes(mut self, nodes: impl IntoIterator<Item = NodeName>) -> Self {
        for node in nodes {
            self.nodes.entry(node).or_insert_with(new_password);
        }
        self
    }

    /// Reads a file that [`Accounts::save`] wrote; `None` where there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, AccountsError> {
        let io = |source| AccountsError::Io { path: path.to_owned(), source };
        let Some(content) = durable_file::read(path).map_err(io)? else { return Ok(None) };
        let malformed = |source| AccountsError::Malformed { path: path.to_owned(), source };
        let stored: Stored = serde_json::from_slice(&content).map_err(malformed)?;
        // Passwords become part of a configuration file: nothing may end its quotation.
        let all = [&stored.operator, &stored.publisher, &stored.system];
        for password in all.into_iter().chain(stored.nodes.values()) {
            if password.is_empty() || !password.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                use serde::de::Error as _;
                return Err(malformed(serde_json::Error::custom("a password holds more than letters and digits")));
            }
        }
        Ok(Some(Self {
            operator: stored.operator.into(),
            publisher: stored.publisher.into(),
            system: stored.system.into(),
            nodes: stored.nodes.into_iter().map(|(node, password)| (node, password.into())).collect(),
        }))
    }

    /// Writes the file, replacing an earlier one whole; for the owner only.
    pub fn save(&self, path: &Path) -> Result<(), AccountsError> {
        let text = |secret: &Secret| secret.expose().to_owned();
        let stored = Stored {
            operator: text(&self.operator),
            publisher: text(&self.publisher),
            system: text(&self.system),
            nodes: self.nodes.iter().map(|(node, password)| (node.clone(), text(password))).collect(),
        };
        let content = serde_json::to_vec_pretty(&stored)
            .map_err(|source| AccountsError::Malformed { path: path.to_owned(), source })?;
        durable_file::write(path, &content).map_err(|source| AccountsError::Io { path: path.to_owned(), source })
    }

    /// Password of the user [`OPERATOR`].
    pub fn operator(&self) -> &Secret {
        &self.operator
    }

    /// Password of the user [`PUBLISHER`].
    pub fn publisher(&self) -> &Secret {
        &self.publisher
    }

    /// Password of a node; its user name is the node's name.
    pub fn node(&self, node: &NodeName) -> Option<&Secret> {
        self.nodes.get(node)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// The accounts as nats-server configuration.
    pub fn render(&self) -> String {
        let mut text = String::from("accounts {\n");
        let mut line = |content: &str| {
            text.push_str(content);
            text.push('\n');
        };
        line(&format!("  SYS {{ users: [ {} ] }}", user(SYSTEM, &self.system)));
        line("  CONTROL {");
        line("    jetstream: enabled");
        line(&format!("    users: [ {}, {} ]", user(OPERATOR, &self.operator), user(PUBLISHER, &self.publisher)));
        line("    exports: [");
        line(&format!("      {{ stream: \"{}\" }}", live_subjects()));
        for (subject, streamed) in shared_services() {
            let response = if streamed { ", response_type: stream" } else { "" };
            line(&format!("      {{ service: \"{subject}\"{response} }}"));
        }
        line("    ]");
        line("  }");
        line("  AGENTS {");
        line("    imports: [");
        line(&format!("      {{ stream: {{ account: CONTROL, subject: \"{}\" }} }}", live_subjects()));
        for (subject, _) in shared_services() {
            line(&format!("      {{ service: {{ account: CONTROL, subject: \"{subject}\" }} }}"));
        }
        line("    ]");
        line("    users: [");
        for (node, password) in &self.nodes {
            line(&node_user(node, password));
        }
        line("    ]");
        line("  }");
        line("}");
        line("system_account: SYS");
        text
    }
}

/// What nodes may ask of the other account, and whether one request has many answers.
fn shared_services() -> [(String, bool); 6] {
    let releases = release_stream();
    [
        (format!("$JS.API.DIRECT.GET.{EVENT_STREAM}"), true),
        (format!("$JS.API.DIRECT.GET.{EVENT_STREAM}.>"), false),
        (format!("$JS.API.DIRECT.GET.{releases}"), true),
        (format!("$JS.API.DIRECT.GET.{releases}.>"), false),
        ("bundle.*.*.node.*".to_owned(), false),
        (format!("$KV.{NODE_TABLE}.*"), false),
    ]
}

fn live_subjects() -> String {
    format!("{LIVE_PREFIX}bundle.>")
}

fn user(name: &str, password: &Secret) -> String {
    format!("{{ user: \"{name}\", password: \"{}\" }}", password.expose())
}

/// A node reads everything, listens to what moves it, and speaks for itself only.
fn node_user(node: &NodeName, password: &Secret) -> String {
    let reads = shared_services().into_iter().map(|(subject, _)| subject).filter(|subject| subject.starts_with("$JS."));
    let publish: Vec<String> =
        [node_filter(node), format!("$KV.{NODE_TABLE}.{node}")].into_iter().chain(reads).collect();
    let live = ["published", "promoted", "withdrawn"].map(|event| format!("{LIVE_PREFIX}bundle.{event}.>"));
    let subscribe: Vec<String> =
        [format!("_INBOX_{node}.>")].into_iter().chain(live).chain([multicast_filter()]).collect();
    let list = |subjects: &[String]| {
        let mut text = String::new();
        for (index, subject) in subjects.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}\"{subject}\"", if index == 0 { "" } else { ", " });
        }
        text
    };
    format!(
        "      {{ user: \"{node}\", password: \"{}\", permissions: {{\n        publish: [{}]\n        subscribe: [{}]\n      }} }}",
        password.expose(),
        list(&publish),
        list(&subscribe)
    )
}

fn new_password() -> Secret {
    // The thread's generator is cryptographically secure.
    let text: String = rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect();
    text.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    #[test]
    fn a_node_may_write_for_itself_only() {
        let accounts = Accounts::generate([node("n1")]);
        let text = accounts.render();
        assert!(text.contains(
            "publish: [\"bundle.*.*.node.n1\", \"$KV.BUNDLE_NODES.n1\", \"$JS.API.DIRECT.GET.BUNDLE_EVENTS\", \
             \"$JS.API.DIRECT.GET.BUNDLE_EVENTS.>\", \"$JS.API.DIRECT.GET.OBJ_BUNDLES\", \
             \"$JS.API.DIRECT.GET.OBJ_BUNDLES.>\"]"
        ));
        assert!(text.contains(
            "subscribe: [\"_INBOX_n1.>\", \"live.bundle.published.>\", \"live.bundle.promoted.>\", \
             \"live.bundle.withdrawn.>\", \"multicast.BUNDLES.>\"]"
        ));
        assert!(text.contains("{ service: \"$JS.API.DIRECT.GET.BUNDLE_EVENTS\", response_type: stream }"));
        assert!(text.contains("{ service: { account: CONTROL, subject: \"bundle.*.*.node.*\" } }"));
    }

    #[test]
    fn passwords_survive_in_a_private_file_and_nodes_can_be_added() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.json");
        assert_eq!(Accounts::load(&path).unwrap(), None);
        let accounts = Accounts::generate([node("n1")]);
        accounts.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let read = Accounts::load(&path).unwrap().unwrap();
        assert_eq!(read, accounts);
        let more = read.with_nodes([node("n1"), node("n2")]);
        assert_eq!(more.node(&node("n1")), accounts.node(&node("n1")));
        assert!(more.node(&node("n2")).is_some());
        assert!(!format!("{more:?}").contains(more.operator().expose()));
    }

    #[test]
    fn a_password_cannot_become_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.json");
        let stored = r#"{"operator":"a\" } ]","publisher":"b","system":"c","nodes":{}}"#;
        std::fs::write(&path, stored).unwrap();
        assert!(matches!(Accounts::load(&path), Err(AccountsError::Malformed { .. })));
    }
}
