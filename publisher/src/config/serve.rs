//! The options of `demon-publisher serve`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Serialize, Serializer};
use shared::daemon::api_keys::ApiKeys;
use streams::connection_arguments::parse_duration;
use streams::secret::Secret;

use super::checkpoints::{CheckpointArguments, CheckpointConfig};
use super::durability::{DurabilityArguments, DurabilityConfig};
use super::faults::{ConfigFaults, shown};
use super::publisher::{PublisherArguments, PublisherConfig};
use super::trigger_keys::read_keys;
use crate::schedule::Schedule;

const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// What switches an option off.
const OFF: &str = "off";
const LISTEN: &str = "--listen (DEMON_PUBLISHER_LISTEN)";
const KEY_FILE: &str = "--trigger-key-file (DEMON_PUBLISHER_TRIGGER_KEY_FILE)";

/// Stays: publishes what changed, cuts the day's release on schedule, and takes orders over HTTP. Looks again on SIGHUP.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Time between two looks at the source: a whole number with `ms`, `s` or `m`, at least 100ms
    #[arg(long, env = "DEMON_PUBLISHER_INTERVAL", value_name = "DURATION", default_value = "60s")]
    pub interval: String,

    /// When the day's release is cut although nothing changed: a cron expression in UTC, `off` for never. Five fields,
    /// or six with seconds first
    #[arg(long, env = "DEMON_PUBLISHER_SCHEDULE", value_name = "CRON", default_value = "0 6 * * *")]
    pub schedule: String,

    /// Address for health, metrics and triggers; port 0 takes a free one and logs it; `off` for none
    #[arg(long, env = "DEMON_PUBLISHER_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8070")]
    pub listen: String,

    /// File with the key that may start a publish over HTTP; a second line holds a second key while one replaces the
    /// other. Without a key nobody may
    #[arg(long, env = "DEMON_PUBLISHER_TRIGGER_KEY_FILE", value_name = "FILE")]
    pub trigger_key_file: Option<PathBuf>,

    // Not parsed by clap, whose error would repeat it.
    /// The key itself, or two separated by a space; better given by its variable than on the command line, which others
    /// can see. At least 16 characters
    #[arg(
        long,
        env = "DEMON_PUBLISHER_TRIGGER_KEY",
        value_name = "KEY",
        hide_env_values = true,
        value_parser = parse_secret
    )]
    pub trigger_key: Option<Secret>,

    /// Let others than this machine read health and metrics although there is no key
    #[arg(
        long,
        env = "DEMON_PUBLISHER_LISTEN_WITHOUT_KEY",
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub listen_without_key: bool,

    /// Checkpoints of the log.
    #[command(flatten)]
    pub checkpoints: CheckpointArguments,

    /// What is asked of the server.
    #[command(flatten)]
    pub durability: DurabilityArguments,

    /// What to publish.
    #[command(flatten)]
    pub publisher: PublisherArguments,
}

// clap asks for a `Result`.
#[expect(clippy::unnecessary_wraps, reason = "the signature of a value parser")]
fn parse_secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// Where the HTTP side listens, and who may start a publish there.
#[derive(Debug, Clone, Serialize)]
pub struct Listen {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// The keys; without them there are no triggers.
    pub trigger_keys: Option<ApiKeys>,
}

/// Settings of a publisher that stays, each of them checked. Serialising it masks every secret.
#[derive(Debug, Clone, Serialize)]
pub struct ServeConfig {
    /// What every publisher has.
    #[serde(flatten)]
    pub publisher: PublisherConfig,
    /// Time between two looks at the source.
    #[serde(serialize_with = "as_seconds")]
    pub interval: Duration,
    /// When the day's release is cut; `None` for never.
    pub schedule: Option<Schedule>,
    /// The HTTP side; `None` for none.
    pub listen: Option<Listen>,
    /// Checkpoints of the log; `None` for none.
    pub checkpoints: Option<CheckpointConfig>,
    /// What is asked of the server.
    #[serde(flatten)]
    pub durability: DurabilityConfig,
}

pub(super) fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}s", duration.as_secs_f64()))
}

impl ServeArguments {
    /// Checks every option and reports all faults at once. Looks whether the source is a directory, reads the file of
    /// keys, and looks at nothing else.
    pub fn check(&self) -> Result<ServeConfig, ConfigFaults> {
        let mut faults = ConfigFaults::default();
        let publisher = faults.take_all(self.publisher.check());
        let interval = faults.take("--interval (DEMON_PUBLISHER_INTERVAL)", parse_duration(&self.interval));
        if interval.is_some_and(|interval| interval < SHORTEST_INTERVAL) {
            faults.add("--interval (DEMON_PUBLISHER_INTERVAL)", "it is shorter than 100ms");
        }
        let schedule = match self.schedule.as_str() {
            OFF | "" => None,
            text => faults.take("--schedule (DEMON_PUBLISHER_SCHEDULE)", text.parse()),
        };
        let trigger_keys = self.trigger_keys(&mut faults);
        let listen = match self.listen.as_str() {
            OFF | "" => None,
            text => self.listen(text, trigger_keys, &mut faults),
        };
        let checkpoints = self.checkpoints.check(&mut faults);
        let durability = self.durability.check(&mut faults);
        match (publisher, interval) {
            (Some(publisher), Some(interval)) if faults.is_empty() => {
                Ok(ServeConfig { publisher, interval, schedule, listen, checkpoints, durability })
            }
            _ => Err(faults),
        }
    }

    fn trigger_keys(&self, faults: &mut ConfigFaults) -> Option<ApiKeys> {
        let file = self.trigger_key_file.as_ref().filter(|path| !path.as_os_str().is_empty());
        let text = self.trigger_key.as_ref().filter(|key| !key.expose().is_empty());
        match (file, text) {
            (None, None) => None,
            (Some(path), None) => faults.take(KEY_FILE, read_keys(path)),
            (None, Some(text)) => {
                let keys = ApiKeys::parse(text.expose());
                faults.take("--trigger-key (DEMON_PUBLISHER_TRIGGER_KEY)", keys)?
            }
            (Some(_), Some(_)) => {
                faults.add(KEY_FILE, "it and DEMON_PUBLISHER_TRIGGER_KEY are both given: keep one");
                None
            }
        }
    }

    fn listen(&self, text: &str, trigger_keys: Option<ApiKeys>, faults: &mut ConfigFaults) -> Option<Listen> {
        let Ok(address) = text.parse::<SocketAddr>() else {
            faults.add(LISTEN, format!("`{}` is not ADDRESS:PORT, such as 127.0.0.1:8070, nor `off`", shown(text)));
            return None;
        };
        if !address.ip().is_loopback() && trigger_keys.is_none() && !self.listen_without_key {
            faults.add(
                LISTEN,
                format!(
                    "`{address}` can be reached by others: give a key (--trigger-key-file), or say \
                     --listen-without-key if they may read health and metrics"
                ),
            );
        }
        Some(Listen { address, trigger_keys })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{CommandLine, PublisherCommand};
    use super::*;

    fn check(arguments: &[&str]) -> Result<ServeConfig, ConfigFaults> {
        let here = ["demon-publisher", "serve", "--source", env!("CARGO_MANIFEST_DIR")];
        match CommandLine::try_parse_from([&here, arguments].concat()).unwrap().command {
            PublisherCommand::Serve(arguments) => arguments.check(),
            PublisherCommand::Publish(_) => panic!("it said serve"),
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = check(&["--bundle", "log", "--interval", "1ms", "--schedule", "at six", "--listen", "here"]);
        let faults = faults.unwrap_err().to_string();
        for option in ["--bundle", "--interval", "--schedule", "--listen"] {
            assert!(faults.contains(option), "{option}: {faults}");
        }
        assert_eq!(faults.lines().count(), 1, "{faults}");
    }

    #[test]
    fn the_defaults_listen_on_loopback_without_triggers_and_release_at_six() {
        let config = check(&[]).unwrap();
        let listen = config.listen.unwrap();
        assert_eq!(listen.address.to_string(), "127.0.0.1:8070");
        assert!(listen.trigger_keys.is_none());
        assert_eq!(config.schedule.unwrap().to_string(), "0 6 * * *");
        let off = check(&["--listen", "off", "--schedule", "off"]).unwrap();
        assert!(off.listen.is_none() && off.schedule.is_none());
    }

    #[test]
    fn the_network_is_listened_to_with_a_key_or_an_explicit_word() {
        let open = ["--listen", "0.0.0.0:8070"];
        assert!(check(&open).unwrap_err().to_string().contains("--trigger-key-file"));
        assert!(check(&[&open[..], &["--listen-without-key"]].concat()).is_ok());
        let config = check(&[&open[..], &["--trigger-key", "0123456789abcdef"]].concat()).unwrap();
        assert!(!serde_json::to_string(&config).unwrap().contains("0123456789abcdef"));
    }

    #[test]
    fn a_bad_key_is_refused_without_being_repeated() {
        let faults = check(&["--trigger-key", "geheim"]).unwrap_err().to_string();
        assert!(faults.contains("6 characters") && !faults.contains("geheim"), "{faults}");
        assert!(check(&["--trigger-key", ""]).unwrap().listen.unwrap().trigger_keys.is_none(), "empty is not set");
        let both = ["--trigger-key", "0123456789abcdef", "--trigger-key-file", "keys"];
        assert!(check(&both).unwrap_err().to_string().contains("keep one"));
    }
}
