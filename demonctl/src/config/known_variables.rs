//! The variables that agent and publisher read, taken from their own options, so that the list is never behind.

use std::collections::BTreeSet;

use clap::{Args as _, Command};
use publisher::config::ServeArguments;
use publisher::github::GitHubArguments;
use subscriber::config::AgentArguments;

/// Read by the libraries below.
const OTHERS: [&str; 12] = [
    "RUST_LOG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "TZ",
];

/// Whether one of our programs reads the variable.
pub(crate) fn is_known(name: &str) -> bool {
    OTHERS.contains(&name) || variables().contains(name)
}

fn variables() -> BTreeSet<String> {
    let agent = AgentArguments::augment_args(Command::new("agent"));
    let github = GitHubArguments::augment_args(Command::new("github"));
    let publisher = ServeArguments::augment_args(Command::new("publisher"));
    let names = |command: Command| -> Vec<String> {
        command.get_arguments().filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned())).collect()
    };
    [agent, github, publisher].into_iter().flat_map(names).collect()
}

#[cfg(test)]
mod tests {
    use super::is_known;

    #[test]
    fn what_the_programs_read_is_known() {
        for name in ["DEMON_CHANNEL", "NATS_URL", "AGENT_API_KEY", "GH_TOKEN", "DEMON_PUBLISHER_INTERVAL", "RUST_LOG"] {
            assert!(is_known(name), "{name}");
        }
        assert!(!is_known("DEMON_CHANEL"));
    }
}
