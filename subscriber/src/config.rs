//! What an agent is told: flags, environment variables, defaults, and the one check that reports every fault at once.
//!
//! The only place of this crate that knows an option's name. Nothing else reads the environment.

mod faults;
mod http;
mod integrity;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};
use shared::daemon::LogFormat;
use shared::identifiers::{BundleName, ChannelName, NodeName, Tag};
use streams::connection_arguments::{ConnectionArguments, parse_duration};
use streams::connection_settings::ConnectionSettings;

pub use self::faults::ConfigFaults;
pub use self::http::{HttpArguments, HttpConfig};
pub use self::integrity::{IntegrityArguments, IntegrityConfig};
use crate::failures::RetryBounds;

/// A "tag" that means: follow the channel.
const UNPINNED: &str = "contracts-latest";
const INTERVAL_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_hours(1));
const RETRY_BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(24));

/// Options of the agent. Durations are a whole number with `ms`, `s` or `m`.
// Most values stay text here, so that all faults can be reported at once.
#[derive(Debug, Clone, Args)]
pub struct AgentArguments {
    /// Name of this node: letters, digits, `_`, `-`, at most 64 [default: the host name up to its first dot]
    #[arg(long, env = "DEMON_NODE_ID", value_name = "NAME")]
    pub node: Option<String>,

    /// Bundle to run
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    pub bundle: String,

    /// Channel to follow
    #[arg(long, env = "DEMON_CHANNEL", value_name = "NAME", default_value = "latest")]
    pub channel: String,

    /// Run the release of this tag, wherever the channel points; `contracts-latest` means: follow the channel
    #[arg(long, env = "DEMON_CONTRACTS_TAG", value_name = "TAG")]
    pub tag: Option<String>,

    /// Directory that holds the releases; may be deleted at any time, the agent fills it again
    #[arg(long, env = "DEMON_CONTRACTS_CACHE", value_name = "DIRECTORY", default_value = ".demon/contracts")]
    pub cache: PathBuf,

    /// Directory of this agent's memory and of events not yet sent; one agent each [default: `agent` beside the cache]
    #[arg(long, env = "DEMON_STATE_DIR", value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,

    /// Time between two looks at the log and two heartbeats, give or take a fifth: 100ms to 60m. News arrives at once,
    /// whatever is set here
    #[arg(long, env = "DEMON_INTERVAL", value_name = "DURATION", default_value = "30s")]
    pub interval: String,

    /// How many old releases stay in the cache beside the current one; the one before it always stays
    #[arg(long, env = "DEMON_KEEP_RELEASES", value_name = "NUMBER", default_value = "3")]
    pub keep_releases: String,

    /// Time before a failed release is tried again the first time; doubled with each failure
    #[arg(long, env = "DEMON_RETRY_FIRST", value_name = "DURATION", default_value = "1s")]
    pub retry_first: String,

    /// Longest time before a failed release is tried again
    #[arg(long, env = "DEMON_RETRY_LONGEST", value_name = "DURATION", default_value = "5m")]
    pub retry_longest: String,

    /// Form of the log on standard output; `RUST_LOG` says how much of it
    #[arg(long, env = "DEMON_LOG_FORMAT", value_name = "FORMAT", default_value = "json", value_enum)]
    pub log_format: LogFormatArgument,

    /// Print the effective settings as JSON, secrets masked, and exit
    #[arg(long, env = "DEMON_PRINT_CONFIG", value_parser = clap::builder::BoolishValueParser::new())]
    pub print_config: bool,

    /// Emergency only: load no bundle and ask for none; true for `1`, `true`, `yes` and `on`, false for anything else
    #[arg(long, env = "DEMON_SKIP_CONTRACT_BUNDLE", value_name = "FLAG", num_args = 0..=1, default_missing_value = "1")]
    pub skip_contract_bundle: Option<String>,

    /// What is done about bytes that are not as announced.
    #[command(flatten)]
    pub integrity: IntegrityArguments,

    /// The HTTP interface.
    #[command(flatten)]
    pub http: HttpArguments,

    /// How to reach the server.
    #[command(flatten)]
    pub connection: ConnectionArguments,
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

/// What decides which release a node should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Follow {
    /// Whatever this channel points at.
    Channel(ChannelName),
    /// One release, for good.
    Tag(Tag),
}

impl Follow {
    /// The channel, where one is followed.
    pub fn channel(&self) -> Option<&ChannelName> {
        match self {
            Self::Channel(channel) => Some(channel),
            Self::Tag(_) => None,
        }
    }

    /// The tag, where one release is followed for good.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Channel(_) => None,
            Self::Tag(tag) => Some(tag),
        }
    }
}

/// Settings of an agent, each of them checked. Serialising it masks every secret.
#[derive(Debug, Clone, Serialize)]
pub struct AgentConfig {
    /// The node's name.
    pub node: NodeName,
    /// The bundle it runs.
    pub bundle: BundleName,
    /// Which release of it.
    pub follow: Follow,
    /// The cache directory, absolute.
    pub cache: PathBuf,
    /// The state directory, absolute.
    pub state_dir: PathBuf,
    /// Time between two looks at the log.
    #[serde(serialize_with = "as_text")]
    pub interval: Duration,
    /// Old releases that stay in the cache.
    pub keep_releases: usize,
    /// Time before a failed release is tried again the first time.
    #[serde(serialize_with = "as_text")]
    pub retry_first: Duration,
    /// Longest time before a failed release is tried again.
    #[serde(serialize_with = "as_text")]
    pub retry_longest: Duration,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Loading of bundles is switched off.
    pub skip_contract_bundle: bool,
    /// What is done about bytes that are not as announced.
    pub integrity: IntegrityConfig,
    /// The channel that a pinned node would follow: what is newer there is reported.
    pub channel: ChannelName,
    /// The HTTP interface.
    pub http: HttpConfig,
    /// What is odd about the options without being a fault.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// How to reach the server.
    pub connection: ConnectionSettings,
}

impl AgentConfig {
    pub(crate) fn retry(&self) -> RetryBounds {
        RetryBounds { first: self.retry_first, longest: self.retry_longest }
    }
}

impl AgentArguments {
    /// Checks every option and reports all faults at once. Reads the host name and the working directory, nothing else.
    pub fn check(&self) -> Result<AgentConfig, ConfigFaults> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.check_on(&host)
    }

    fn check_on(&self, host: &str) -> Result<AgentConfig, ConfigFaults> {
        let mut faults = ConfigFaults::default();
        let node = self.checked_node(host, &mut faults);
        let bundle: Option<BundleName> = parsed(&self.bundle, "--bundle (DEMON_BUNDLE)", &mut faults);
        let channel: Option<ChannelName> = parsed(&self.channel, "--channel (DEMON_CHANNEL)", &mut faults);
        let follow = match self.tag.as_deref().filter(|tag| !tag.is_empty() && *tag != UNPINNED) {
            Some(tag) => parsed(tag, "--tag (DEMON_CONTRACTS_TAG)", &mut faults).map(Follow::Tag),
            None => channel.clone().map(Follow::Channel),
        };
        let cache = absolute(&self.cache, "--cache (DEMON_CONTRACTS_CACHE)", &mut faults);
        let beside = || self.cache.parent().map_or_else(|| PathBuf::from("agent"), |parent| parent.join("agent"));
        let state_dir = self.state_dir.clone().unwrap_or_else(beside);
        let state_dir = absolute(&state_dir, "--state-dir (DEMON_STATE_DIR)", &mut faults);
        if let (Some(cache), Some(state)) = (&cache, &state_dir)
            && state.starts_with(cache)
        {
            faults.add("--state-dir (DEMON_STATE_DIR)", "it lies inside the cache, which may be deleted at any time");
        }
        let interval = duration(&self.interval, INTERVAL_BOUNDS, "--interval (DEMON_INTERVAL)", &mut faults);
        let first = duration(&self.retry_first, RETRY_BOUNDS, "--retry-first (DEMON_RETRY_FIRST)", &mut faults);
        let longest = duration(&self.retry_longest, RETRY_BOUNDS, "--retry-longest (DEMON_RETRY_LONGEST)", &mut faults);
        if first.zip(longest).is_some_and(|(first, longest)| first > longest) {
            faults.add("--retry-longest (DEMON_RETRY_LONGEST)", "it is shorter than `--retry-first`");
        }
        let http = self.http.check(&mut faults);
        let integrity = self.integrity.check(&mut faults);
        let keep = parsed(&self.keep_releases, "--keep-releases (DEMON_KEEP_RELEASES)", &mut faults);
        let name = node.as_ref().map_or("", NodeName::as_str);
        let connection = self.connection.settings(&format!("demon-runtime {name}"), &format!("_INBOX_{name}"));
        let connection = connection.map_err(|error| faults.add_error("connection", &error)).ok();

        let checked = (node, bundle, follow, cache, state_dir, interval, keep, first, longest, http, connection);
        let checked = (checked, integrity, channel);
        let (
            (
                Some(node),
                Some(bundle),
                Some(follow),
                Some(cache),
                Some(state_dir),
                Some(interval),
                Some(keep_releases),
                Some(retry_first),
                Some(retry_longest),
                Some(http),
                Some(connection),
            ),
            Some(integrity),
            Some(channel),
        ) = checked
        else {
            return Err(faults);
        };
        let log_format = self.log_format.into();
        let (skip_contract_bundle, odd) =
            emergency_switch("DEMON_SKIP_CONTRACT_BUNDLE", self.skip_contract_bundle.as_deref());
        let warnings = odd.into_iter().chain(self.integrity.warning()).chain(self.http.warning()).collect();
        let config = AgentConfig {
            node,
            bundle,
            follow,
            cache,
            state_dir,
            interval,
            keep_releases,
            retry_first,
            retry_longest,
            log_format,
            skip_contract_bundle,
            integrity,
            channel,
            http,
            warnings,
            connection,
        };
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    fn checked_node(&self, host: &str, faults: &mut ConfigFaults) -> Option<NodeName> {
        if let Some(name) = self.node.as_ref().filter(|name| !name.is_empty()) {
            return parsed(name, "--node (DEMON_NODE_ID)", faults);
        }
        let short = host.split('.').next().unwrap_or_default();
        parsed(short, "host name, which is the default of --node (DEMON_NODE_ID)", faults)
    }
}

fn parsed<T>(text: &str, option: &str, faults: &mut ConfigFaults) -> Option<T>
where
    T: FromStr,
    T::Err: std::error::Error + 'static,
{
    text.parse().map_err(|error: T::Err| faults.add_error(option, &error)).ok()
}

fn duration(
    text: &str,
    (shortest, longest): (Duration, Duration),
    option: &str,
    faults: &mut ConfigFaults,
) -> Option<Duration> {
    let duration = parse_duration(text).map_err(|error| faults.add_error(option, &error)).ok()?;
    if duration < shortest || duration > longest {
        let (shortest, longest) = (duration_text(shortest), duration_text(longest));
        faults.add(option, &format!("`{text}` is not between {shortest} and {longest}"));
        return None;
    }
    Some(duration)
}

fn absolute(path: &Path, option: &str, faults: &mut ConfigFaults) -> Option<PathBuf> {
    std::path::absolute(path).map_err(|error| faults.add_error(option, &error)).ok()
}

/// Whether an emergency switch is on, and what is odd about its value: a slip must not switch safety off.
fn emergency_switch(name: &str, value: Option<&str>) -> (bool, Option<String>) {
    let text = value.unwrap_or_default().trim().to_ascii_lowercase();
    match text.as_str() {
        "1" | "true" | "yes" | "on" => (true, None),
        "" | "0" | "false" | "no" | "off" => (false, None),
        _ => {
            let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
            (false, Some(format!("{name}: `{shown}` is not 1, true, yes or on, so it counts as off")))
        }
    }
}

fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds.is_multiple_of(1000) { format!("{}s", milliseconds / 1000) } else { format!("{milliseconds}ms") }
}

fn as_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*duration))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        agent: AgentArguments,
    }

    fn check(arguments: &[&str], host: &str) -> Result<AgentConfig, ConfigFaults> {
        Program::try_parse_from([&["demon-runtime"], arguments].concat()).unwrap().agent.check_on(host)
    }

    #[test]
    fn the_options_are_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn the_defaults_need_only_a_host_name() {
        let config = check(&[], "edge-17.example.org").unwrap();
        assert_eq!(config.node.as_str(), "edge-17");
        assert_eq!(config.follow, Follow::Channel("latest".parse().unwrap()));
        assert!(config.cache.is_absolute() && config.cache.ends_with(".demon/contracts"));
        assert!(config.state_dir.ends_with(".demon/agent"));
        assert_eq!((config.interval, config.keep_releases), (Duration::from_secs(30), 3));
        assert_eq!(config.connection.inbox_prefix, "_INBOX_edge-17");
    }

    #[test]
    fn a_tag_pins_but_the_alias_does_not() {
        let follow = |tag| check(&["--tag", tag], "a").unwrap().follow;
        assert_eq!(follow("contracts-20250921-0658fb8b"), Follow::Tag("contracts-20250921-0658fb8b".parse().unwrap()));
        assert_eq!(follow("contracts-latest"), Follow::Channel("latest".parse().unwrap()));
    }

    #[test]
    fn every_fault_is_named_with_its_option() {
        let faults = check(
            &["--bundle", "log", "--channel", "a b", "--interval", "30", "--keep-releases", "many", "--tls-cert", "c"],
            "bad_host!.example.org",
        )
        .unwrap_err()
        .to_string();
        for option in
            ["DEMON_NODE_ID", "DEMON_BUNDLE", "DEMON_CHANNEL", "DEMON_INTERVAL", "DEMON_KEEP_RELEASES", "--tls-cert"]
        {
            assert!(faults.contains(option), "{option}: {faults}");
        }
        assert_eq!(faults.lines().count(), 1);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert!(check(&["--retry-first", "10m"], "a").is_err());
        assert!(check(&["--cache", "/c", "--state-dir", "/c/agent"], "a").is_err());
        assert!(check(&["--interval", "5ms"], "a").is_err());
    }

    #[test]
    fn only_plain_words_switch_loading_off() {
        for (value, expected) in
            [("1", true), ("TRUE", true), ("yes", true), ("on", true), ("0", false), ("", false), ("maybe", false)]
        {
            let config = check(&[&format!("--skip-contract-bundle={value}")], "a").unwrap();
            assert_eq!(config.skip_contract_bundle, expected, "{value}");
            assert_eq!(config.warnings.len(), usize::from(value == "maybe"), "{value}");
        }
        assert!(check(&["--skip-contract-bundle"], "a").unwrap().skip_contract_bundle);
        assert!(!check(&[], "a").unwrap().skip_contract_bundle);
    }

    #[test]
    fn shown_settings_hold_no_secret() {
        let arguments = ["--nats-url", "nats://u:geheim@h", "--nats-user", "u", "--nats-password", "hunter2"];
        let shown = serde_json::to_string(&check(&arguments, "a").unwrap()).unwrap();
        assert!(!shown.contains("geheim") && !shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("\"interval\":\"30s\"") && shown.contains("\"channel\":\"latest\""), "{shown}");
    }
}
