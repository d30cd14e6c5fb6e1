//! Who types the command: login to the server, and the name that the log will show.

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use shared::daemon::ErrorChain;
use shared::identifiers::ActorName;
use streams::connection::Connection;
use streams::connection_arguments::ConnectionArguments;

/// Inbox of an operator's command; nodes have one of their own each.
const INBOX_PREFIX: &str = "_INBOX";
/// What the server shows for an operator's connection.
const CONNECTION_NAME: &str = "demonctl";

/// The name under which a command acts.
#[derive(Debug, Args)]
pub(crate) struct ActorArguments {
    /// Who acts, as the log will show it: letters, digits, `_` and `-`. Default: the login name.
    #[arg(long, env = "DEMON_ACTOR", value_name = "NAME")]
    actor: Option<ActorName>,
}

impl ActorArguments {
    /// The name given, else the login name where it is a valid one.
    pub(crate) fn name(&self) -> anyhow::Result<ActorName> {
        if let Some(actor) = &self.actor {
            return Ok(actor.clone());
        }
        let given = ["LOGNAME", "USER"].iter().find_map(|variable| std::env::var(variable).ok());
        let login = given.filter(|name| !name.is_empty()).or_else(login_of_this_user);
        let login = login.context("no login name is known: say who acts with --actor")?;
        login.parse().context("the login name cannot stand in the log: say who acts with --actor")
    }
}

/// Containers and timers set neither variable; the system's list of users knows the name all the same.
fn login_of_this_user() -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    login_name(&users, rustix::process::getuid().as_raw()).map(str::to_owned)
}

/// The first name that a list in the form of passwd(5) has for a user.
fn login_name(users: &str, user: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (!name.is_empty() && number.parse() == Ok(user)).then_some(name)
    })
}

/// The effective settings of the connection, secrets masked.
pub(crate) fn connection_settings(arguments: &ConnectionArguments) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(arguments.settings(CONNECTION_NAME, INBOX_PREFIX)?)?)
}

/// Connects with the login given, or says in one line why not.
pub(crate) async fn connect(arguments: &ConnectionArguments) -> anyhow::Result<Connection> {
    let settings = arguments.settings(CONNECTION_NAME, INBOX_PREFIX)?;
    let address = settings.address.to_string();
    Connection::open(&settings).await.map_err(|error| {
        anyhow::anyhow!("cannot connect to `{address}`: {}; check NATS_URL and the login", ErrorChain(&error))
    })
}

/// Longest text that a person gives as a reason, in bytes.
const LONGEST_REASON: usize = 1000;

/// A reason for the log: some words in one line.
pub(crate) fn parse_reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("it holds control characters".to_owned());
    }
    if text.len() > LONGEST_REASON {
        return Err(format!("it is longer than {LONGEST_REASON} bytes"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::login_name;

    #[test]
    fn a_login_name_is_found_by_the_users_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nbroken\n:x:7:7::/:\nada:x:1000:1000::/home/ada:/bin/sh\n\
                     eve:x:1000:1000::/home/eve:/bin/sh\n";
        for (user, name) in [(0, Some("root")), (1000, Some("ada")), (7, None), (5, None)] {
            assert_eq!(login_name(users, user), name, "user {user}");
        }
    }
}
