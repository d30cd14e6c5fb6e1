//! What an agent is told: flags, environment variables, defaults, and the one check that reports every fault at once.
//!
//! The only place of this crate that knows an option's name. Nothing else reads the environment. Each topic has a file of
//! its own: its options as they come, and its settings once they are checked. They count for every bundle; what may
//! differ between bundles stands in [`BundleConfig`].

mod after_switch;
mod bundles;
mod emergency;
mod faults;
mod http;
mod integrity;
mod log_check;
mod multicast;
mod strict;
mod timing;
mod values;

use clap::{Args, ValueEnum};
use serde::Serialize;
use shared::daemon::LogFormat;
use shared::identifiers::NodeName;
use streams::connection_arguments::ConnectionArguments;
use streams::connection_settings::ConnectionSettings;

pub use self::after_switch::{AfterSwitchArguments, AfterSwitchConfig};
pub(crate) use self::bundles::overlap;
pub use self::bundles::{BundleArguments, BundleConfig, BundlesConfig, Follow};
pub use self::emergency::{EmergencyArguments, EmergencyConfig};
pub use self::faults::ConfigFaults;
pub use self::http::{HttpArguments, HttpConfig};
pub use self::integrity::{IntegrityArguments, IntegrityConfig};
pub use self::log_check::{LogCheckArguments, LogCheckConfig};
pub use self::multicast::{MulticastArguments, MulticastConfig};
pub use self::strict::{Requirement, StrictArguments};
pub use self::timing::{TimingArguments, TimingConfig};
use self::values::parsed;

/// Options of the agent. Durations are a whole number with `ms`, `s` or `m`.
// Most values stay text here, so that all faults can be reported at once.
#[derive(Debug, Clone, Args)]
pub struct AgentArguments {
    /// Name of this node: letters, digits, `_`, `-`, at most 64 [default: the host name up to its first dot]
    #[arg(long, env = "DEMON_NODE_ID", value_name = "NAME")]
    pub node: Option<String>,

    /// The bundles, and where they live.
    #[command(flatten)]
    pub bundles: BundleArguments,

    /// How often to look, and when to try again.
    #[command(flatten)]
    pub timing: TimingArguments,

    /// How many old releases of a bundle stay in its cache beside the current one; the one before it always stays
    #[arg(long, env = "DEMON_KEEP_RELEASES", value_name = "NUMBER", default_value = "3")]
    pub keep_releases: String,

    /// Form of the log on standard output; `RUST_LOG` says how much of it
    #[arg(long, env = "DEMON_LOG_FORMAT", value_name = "FORMAT", default_value = "json", value_enum)]
    pub log_format: LogFormatArgument,

    /// Print the effective settings as JSON, secrets masked, and exit
    #[arg(long, env = "DEMON_PRINT_CONFIG", value_parser = clap::builder::BoolishValueParser::new())]
    pub print_config: bool,

    /// Switches for emergencies.
    #[command(flatten)]
    pub emergency: EmergencyArguments,

    /// What follows a switch.
    #[command(flatten)]
    pub after_switch: AfterSwitchArguments,

    /// The log's checkpoints.
    #[command(flatten)]
    pub log_check: LogCheckArguments,

    /// Most events that may wait on disk while the log cannot be reached: 16 to 1000000. Beyond that, switches are summed up,
    /// and everything else is in this log only
    #[arg(
        long, env = "DEMON_OUTBOX_LIMIT", value_name = "COUNT", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(16..=1_000_000)
    )]
    pub outbox_limit: u32,

    /// What is done about bytes that are not as announced.
    #[command(flatten)]
    pub integrity: IntegrityArguments,

    /// Reading together with other nodes.
    #[command(flatten)]
    pub multicast: MulticastArguments,

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

/// Settings of an agent, each of them checked. Serialising it masks every secret.
#[derive(Debug, Clone, Serialize)]
pub struct AgentConfig {
    /// The node's name.
    pub node: NodeName,
    /// The bundles, and where they live.
    #[serde(flatten)]
    pub bundles: BundlesConfig,
    /// How often to look, and when to try again.
    #[serde(flatten)]
    pub timing: TimingConfig,
    /// Old releases that stay in a bundle's cache.
    pub keep_releases: usize,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Switches for emergencies.
    #[serde(flatten)]
    pub emergency: EmergencyConfig,
    /// What follows a switch.
    pub after_switch: AfterSwitchConfig,
    /// The log's checkpoints.
    #[serde(flatten)]
    pub log_check: LogCheckConfig,
    /// Most events that may wait on disk.
    pub outbox_limit: u32,
    /// What is done about bytes that are not as announced.
    pub integrity: IntegrityConfig,
    /// Reading large releases together with other nodes.
    pub multicast: MulticastConfig,
    /// The HTTP interface.
    pub http: HttpConfig,
    /// What is odd about the options without being a fault.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// How to reach the server.
    pub connection: ConnectionSettings,
}

impl AgentArguments {
    /// Checks every option and reports all faults at once. Reads the host name and the working directory, nothing else.
    pub fn check(&self) -> Result<AgentConfig, ConfigFaults> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.check_on(&host)
    }

    fn check_on(&self, host: &str) -> Result<AgentConfig, ConfigFaults> {
        let mut faults = ConfigFaults::default();
        let config = self.checked(host, &mut faults);
        config.filter(|_| faults.is_empty()).ok_or(faults)
    }

    /// Every topic is checked, whatever the ones before it said. `None` only beside a fault.
    fn checked(&self, host: &str, faults: &mut ConfigFaults) -> Option<AgentConfig> {
        let node = self.checked_node(host, faults);
        let bundles = self.bundles.check(faults);
        let timing = self.timing.check(faults);
        let after_switch = self.after_switch.check(faults);
        let log_check = self.log_check.check(faults);
        let integrity = self.integrity.check(faults);
        let multicast = self.multicast.check(faults);
        let http = self.http.check(faults);
        let keep_releases = parsed(&self.keep_releases, "--keep-releases (DEMON_KEEP_RELEASES)", faults);
        let name = node.as_ref().map_or("", NodeName::as_str);
        let connection = self.connection.settings(&format!("demon-runtime {name}"), &format!("_INBOX_{name}"));
        let connection = connection.map_err(|error| faults.add_error("connection", &error)).ok();
        let (emergency, odd) = self.emergency.check();
        Some(AgentConfig {
            node: node?,
            bundles: bundles?,
            timing: timing?,
            keep_releases: keep_releases?,
            log_format: self.log_format.into(),
            emergency,
            after_switch: after_switch?,
            log_check: log_check?,
            outbox_limit: self.outbox_limit,
            integrity: integrity?,
            multicast: multicast?,
            http: http?,
            warnings: odd.into_iter().chain(self.integrity.warning()).chain(self.http.warning()).collect(),
            connection: connection?,
        })
    }

    fn checked_node(&self, host: &str, faults: &mut ConfigFaults) -> Option<NodeName> {
        if let Some(name) = self.node.as_ref().filter(|name| !name.is_empty()) {
            return parsed(name, "--node (DEMON_NODE_ID)", faults);
        }
        let short = host.split('.').next().unwrap_or_default();
        parsed(short, "host name, which is the default of --node (DEMON_NODE_ID)", faults)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let [bundle] = &config.bundles.bundles[..] else { panic!("one bundle") };
        assert_eq!(bundle.follow, Follow::Channel("latest".parse().unwrap()));
        assert!(bundle.cache.is_absolute() && bundle.cache.ends_with(".demon/contracts"));
        assert!(config.bundles.state_dir.ends_with(".demon/agent"));
        assert_eq!((config.timing.interval, config.keep_releases), (Duration::from_secs(30), 3));
        assert_eq!(config.connection.inbox_prefix, "_INBOX_edge-17");
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
            assert_eq!(config.emergency.skip_contract_bundle, expected, "{value}");
            assert_eq!(config.warnings.len(), usize::from(value == "maybe"), "{value}");
        }
        assert!(check(&["--skip-contract-bundle"], "a").unwrap().emergency.skip_contract_bundle);
        assert!(!check(&[], "a").unwrap().emergency.skip_contract_bundle);
    }

    #[test]
    fn shown_settings_hold_no_secret() {
        let arguments = ["--nats-url", "nats://u:geheim@h", "--nats-user", "u", "--nats-password", "hunter2"];
        let shown = serde_json::to_string(&check(&arguments, "a").unwrap()).unwrap();
        assert!(!shown.contains("geheim") && !shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("\"interval\":\"30s\"") && shown.contains("\"channel\":\"latest\""), "{shown}");
    }
}
