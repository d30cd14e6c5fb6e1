//! What a publisher is told: flags, environment variables, defaults, and the one check that reports every fault at once.
//!
//! The only place of this crate that knows an option's name. Nothing else reads the environment.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Parser, ValueEnum};
use serde::{Serialize, Serializer};
use shared::daemon::{ErrorChain, LogFormat};
use shared::event::Trigger;
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use streams::connection_arguments::{ConnectionArguments, parse_duration};
use streams::connection_settings::ConnectionSettings;

use crate::git_facts::is_commit_sum;

/// Inbox of a publisher's replies; nodes have one of their own each.
const INBOX_PREFIX: &str = "_INBOX";
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// What a cluster of nats-servers can hold.
const MOST_REPLICAS: usize = 5;

/// Publishes a directory as releases of a bundle, whenever its content changes, and moves a channel to them.
///
/// Creates stream, bucket and node table where they are missing. Looks again on SIGHUP. Stops on SIGINT or SIGTERM at
/// any point; the next run finishes what was begun.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "demon-publisher",
    version,
    after_help = "Exit codes: 0 ok (nothing to do included), 1 refused or failed, 2 wrong usage.\n\
                  Logs go to standard output, filtered by RUST_LOG (default: info)."
)]
pub struct PublisherArguments {
    /// Directory to publish; everything below it but `.git`
    #[arg(long, env = "DEMON_PUBLISHER_SOURCE", value_name = "DIRECTORY", default_value = "contracts")]
    pub source: PathBuf,

    /// Bundle to publish; `contracts` becomes `bundle.json`, `manifest.json` and `bundle.sha256`, others travel as they
    /// are
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    pub bundle: String,

    /// Channel to move to each new release
    #[arg(long, env = "DEMON_CHANNEL", value_name = "NAME", default_value = "latest")]
    pub channel: String,

    /// Publish without moving a channel
    #[arg(long, env = "DEMON_NO_PROMOTE", value_parser = clap::builder::BoolishValueParser::new())]
    pub no_promote: bool,

    /// Name of this publisher in the log: letters, digits, `_`, `-`, at most 64
    #[arg(long, env = "DEMON_PUBLISHER_NAME", value_name = "NAME", default_value = "main")]
    pub name: String,

    /// Directory of this publisher's memory of the events it wrote; one publisher each
    #[arg(long, env = "DEMON_PUBLISHER_STATE", value_name = "DIRECTORY", default_value = ".demon/publisher")]
    pub state_dir: PathBuf,

    /// Tag of the release; only with `--once`. Without it: `<bundle>-YYYYMMDD-<sha8>`, of the commit, or of the content
    /// where the source is not exactly a commit
    #[arg(long, env = "DEMON_PUBLISHER_TAG", value_name = "TAG")]
    pub tag: Option<String>,

    /// Commit that the source is made from, 40 hex digits; without it git is asked
    #[arg(long, env = "DEMON_GIT_SHA", value_name = "SHA")]
    pub git_sha: Option<String>,

    /// Time of the release: RFC 3339, or seconds since 1970; without it: now
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "TIME")]
    pub timestamp: Option<String>,

    /// What made us publish, for the log
    #[arg(long, env = "DEMON_TRIGGER", value_name = "TRIGGER", default_value = "local", value_enum)]
    pub trigger: TriggerArgument,

    /// Publish what there is and exit, instead of staying
    #[arg(long, env = "DEMON_PUBLISHER_ONCE", value_parser = clap::builder::BoolishValueParser::new())]
    pub once: bool,

    /// Time between two looks at the source: a whole number with `ms`, `s` or `m`, at least 100ms
    #[arg(long, env = "DEMON_PUBLISHER_INTERVAL", value_name = "DURATION", default_value = "60s")]
    pub interval: String,

    /// Copies of each stream, 1 to 5, where it does not exist yet: 1 on a single server, 3 on a cluster
    #[arg(long, env = "DEMON_REPLICAS", value_name = "NUMBER", default_value = "1")]
    pub replicas: String,

    /// Form of the log on standard output; `RUST_LOG` says how much of it
    #[arg(long, env = "DEMON_LOG_FORMAT", value_name = "FORMAT", default_value = "json", value_enum)]
    pub log_format: LogFormatArgument,

    /// Print the effective settings as JSON, secrets masked, and exit
    #[arg(long, env = "DEMON_PRINT_CONFIG", value_parser = clap::builder::BoolishValueParser::new())]
    pub print_config: bool,

    /// How to reach the server.
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// The trigger as an option names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum TriggerArgument {
    /// A person or a script on some machine
    Local,
    /// The daily schedule
    Schedule,
    /// A CI workflow that completed
    WorkflowRun,
    /// A workflow started by hand
    WorkflowDispatch,
}

impl From<TriggerArgument> for Trigger {
    fn from(argument: TriggerArgument) -> Self {
        match argument {
            TriggerArgument::Local => Self::Local,
            TriggerArgument::Schedule => Self::Schedule,
            TriggerArgument::WorkflowRun => Self::WorkflowRun,
            TriggerArgument::WorkflowDispatch => Self::WorkflowDispatch,
        }
    }
}

/// The log's form as an option names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArgument {
    /// One JSON object a line
    Json,
    /// For people
    Text,
}

impl From<LogFormatArgument> for LogFormat {
    fn from(argument: LogFormatArgument) -> Self {
        match argument {
            LogFormatArgument::Json => Self::Json,
            LogFormatArgument::Text => Self::Text,
        }
    }
}

/// Settings of a publisher, each of them checked. Serialising it masks every secret.
#[derive(Debug, Clone, Serialize)]
pub struct PublisherConfig {
    /// The directory to publish.
    pub source: PathBuf,
    /// The bundle.
    pub bundle: BundleName,
    /// The channel to move; `None` with `--no-promote`.
    pub channel: Option<ChannelName>,
    /// The publisher's name.
    pub name: ActorName,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// The tag, where it is not derived.
    pub tag: Option<Tag>,
    /// The commit, where git is not asked.
    pub git_sha: Option<String>,
    /// The release's time, where it is not now.
    pub timestamp: Option<DateTime<Utc>>,
    /// What made us publish.
    pub trigger: Trigger,
    /// Publish and exit.
    pub once: bool,
    /// Time between two looks at the source.
    #[serde(serialize_with = "as_seconds")]
    pub interval: Duration,
    /// Copies of each stream that is created.
    pub replicas: usize,
    /// Form of the log.
    pub log_format: LogFormat,
    /// How to reach the server.
    pub connection: ConnectionSettings,
}

fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}s", duration.as_secs_f64()))
}

/// Options that cannot be used: every one of them, in one line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigFaults(Vec<String>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("; "))
    }
}

impl Error for ConfigFaults {}

impl ConfigFaults {
    fn add(&mut self, option: &str, fault: impl fmt::Display) {
        self.0.push(format!("{option}: {fault}"));
    }

    /// The value, or the fault noted.
    fn take<T, E: fmt::Display>(&mut self, option: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.add(option, error)).ok()
    }
}

impl PublisherArguments {
    /// Checks every option and reports all faults at once. Looks whether the source is a directory, and at nothing else.
    pub fn check(&self) -> Result<PublisherConfig, ConfigFaults> {
        let mut faults = ConfigFaults::default();
        if !self.source.is_dir() {
            let what = if self.source.exists() { "is not a directory" } else { "does not exist" };
            faults.add("--source (DEMON_PUBLISHER_SOURCE)", format!("`{}` {what}", self.source.display()));
        }
        let bundle = faults.take("--bundle (DEMON_BUNDLE)", self.bundle.parse());
        let channel = faults.take("--channel (DEMON_CHANNEL)", self.channel.parse());
        let name = faults.take("--name (DEMON_PUBLISHER_NAME)", self.name.parse());
        let tag = given(self.tag.as_ref()).and_then(|tag| faults.take("--tag", tag.parse()));
        if tag.is_some() && !self.once {
            faults.add("--tag", "it names one release, so it needs `--once`");
        }
        let git_sha = given(self.git_sha.as_ref());
        if let Some(sha) = git_sha.filter(|sha| !is_commit_sum(sha)) {
            faults.add("--git-sha (DEMON_GIT_SHA)", format!("`{}` is not 40 lowercase hex digits", shown(sha)));
        }
        let timestamp = given(self.timestamp.as_ref())
            .and_then(|time| faults.take("--timestamp (SOURCE_DATE_EPOCH)", parse_time(time)));
        let interval = faults.take("--interval (DEMON_PUBLISHER_INTERVAL)", parse_duration(&self.interval));
        if interval.is_some_and(|interval| interval < SHORTEST_INTERVAL) {
            faults.add("--interval (DEMON_PUBLISHER_INTERVAL)", "it is shorter than 100ms");
        }
        let replicas: Option<usize> = self.replicas.parse().ok().filter(|count| (1..=MOST_REPLICAS).contains(count));
        if replicas.is_none() {
            faults
                .add("--replicas (DEMON_REPLICAS)", format!("`{}` is not a number from 1 to 5", shown(&self.replicas)));
        }
        let settings = self.connection.settings(&format!("demon-publisher {}", self.name), INBOX_PREFIX);
        let connection = faults.take("connection", settings.map_err(|error| ErrorChain(&error).to_string()));

        let checked = (bundle, channel, name, interval, replicas, connection);
        let ((Some(bundle), Some(channel), Some(name), Some(interval), Some(replicas), Some(connection)), []) =
            (checked, faults.0.as_slice())
        else {
            return Err(faults);
        };
        Ok(PublisherConfig {
            source: self.source.clone(),
            bundle,
            channel: (!self.no_promote).then_some(channel),
            name,
            state_dir: self.state_dir.clone(),
            tag,
            git_sha: git_sha.cloned(),
            timestamp,
            trigger: self.trigger.into(),
            once: self.once,
            interval,
            replicas,
            log_format: self.log_format.into(),
            connection,
        })
    }
}

/// A variable that is set to nothing counts as not set.
fn given(value: Option<&String>) -> Option<&String> {
    value.filter(|text| !text.is_empty())
}

/// A time as an option gives it: RFC 3339, or seconds since 1970.
pub fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let seconds = text.parse::<i64>().ok().filter(|seconds| *seconds >= 0);
    let time = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let time = time.or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc)));
    time.ok_or_else(|| format!("`{}` is neither an RFC 3339 time nor seconds since 1970", shown(text)))
}

fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn check(arguments: &[&str]) -> Result<PublisherConfig, ConfigFaults> {
        let here = ["demon-publisher", "--source", env!("CARGO_MANIFEST_DIR")];
        PublisherArguments::try_parse_from([&here, arguments].concat()).unwrap().check()
    }

    #[test]
    fn the_options_are_consistent() {
        PublisherArguments::command().debug_assert();
    }

    #[test]
    fn times_are_given_in_two_forms() {
        for text in ["2025-09-21T08:00:00+02:00", "1758434400"] {
            let time = check(&["--timestamp", text]).unwrap().timestamp.unwrap();
            assert_eq!(time.to_rfc3339(), "2025-09-21T06:00:00+00:00");
        }
        for text in ["yesterday", "-1", "99999999999999999"] {
            assert!(check(&[&format!("--timestamp={text}")]).is_err(), "{text}");
        }
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults =
            check(&["--bundle", "log", "--interval", "1ms", "--replicas", "0", "--git-sha", "abc", "--tag", "v1"])
                .unwrap_err()
                .to_string();
        for option in ["--bundle", "--interval", "--replicas", "--git-sha", "--tag"] {
            assert!(faults.contains(option), "{option}: {faults}");
        }
    }

    #[test]
    fn empty_variables_count_as_not_set() {
        let config = check(&["--git-sha", "", "--timestamp", "", "--tag", ""]).unwrap();
        assert_eq!((config.git_sha, config.timestamp, config.tag), (None, None, None));
    }

    #[test]
    fn without_promotion_there_is_no_channel() {
        assert_eq!(check(&[]).unwrap().channel.unwrap().as_str(), "latest");
        assert_eq!(check(&["--no-promote"]).unwrap().channel, None);
    }
}
