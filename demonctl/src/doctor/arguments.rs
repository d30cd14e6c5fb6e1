//! Options of the doctor.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use publisher::github::GitHubArguments;
use publisher::server_monitoring::parse_monitor_url;
use reqwest::Url;
use serde::Serialize;
use serde_json::{Value, json};
use shared::identifiers::{BundleName, ChannelName, NodeName, Tag};
use streams::connection_arguments::{ConnectionArguments, parse_duration};
use streams::secret::Secret;
use subscriber::agent_presence::AgentPresence;

use crate::operator;
use crate::output::OutputFormat;

/// Where releases come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    /// The log and the object store; GitHub is asked only where a token is set
    Nats,
    /// Releases of a GitHub repository; it is asked in any case
    Github,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Address of the agent's HTTP interface.
    #[arg(
        long,
        env = "DEMON_AGENT_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:3000",
        hide_env_values = true
    )]
    pub(super) agent_url: Url,
    /// Key for the agent's API; better given by its variable.
    #[arg(long, env = "AGENT_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub(super) api_key: Option<String>,
    /// The node whose failures are looked for [default: that of the agent on the cache, else the host name up to its first
    /// dot]
    #[arg(long, env = "DEMON_NODE_ID", value_name = "NAME")]
    pub(super) node: Option<NodeName>,
    /// The bundle.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    pub(super) bundle: BundleName,
    /// The channel that the node follows.
    #[arg(long, env = "DEMON_CHANNEL", value_name = "NAME", default_value = "latest")]
    pub(super) channel: ChannelName,
    /// The agent's cache on this host.
    #[arg(long, env = "DEMON_CONTRACTS_CACHE", value_name = "DIRECTORY", default_value = ".demon/contracts")]
    pub(super) cache: PathBuf,
    /// Where releases come from.
    #[arg(long, env = "DEMON_CONTRACTS_SOURCE", value_name = "SOURCE", default_value = "nats", value_enum)]
    pub(super) source: Source,
    /// The server's monitoring page, such as `http://127.0.0.1:8222`: only there it says whether it flushes before it
    /// acknowledges.
    #[arg(long, env = "DEMON_NATS_MONITOR_URL", value_name = "URL", value_parser = parse_monitor_url)]
    pub(super) nats_monitor_url: Option<Url>,
    /// Fail where the server may lose what it has acknowledged, or does not say.
    #[arg(long, env = "DEMON_REQUIRE_DURABLE", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) require_durable: bool,
    /// A release of GitHub that is known to be good, to be looked for.
    #[arg(long, env = "DEMON_KNOWN_TAG", value_name = "TAG")]
    pub(super) known_tag: Option<Tag>,
    /// Most failures to list.
    #[arg(long, env = "DEMON_DOCTOR_FAILURES", value_name = "N", default_value_t = 5)]
    pub(super) failures: usize,
    /// How long one check may take: a whole number with `ms`, `s` or `m`.
    #[arg(long, env = "DEMON_DOCTOR_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub(super) check_timeout: Duration,
    /// Write an archive (`.tar.gz`) for support: status, last events, environment and these checks, secrets masked.
    #[arg(long, visible_alias = "collect", env = "DEMON_DOCTOR_BUNDLE", value_name = "FILE")]
    pub(super) bundle_file: Option<PathBuf>,
    /// A log whose end goes into the archive.
    #[arg(long, env = "DEMON_DOCTOR_LOG", value_name = "FILE", requires = "bundle_file")]
    pub(super) log: Option<PathBuf>,
    /// What you tried already, for the archive.
    #[arg(long, env = "DEMON_DOCTOR_NOTE", value_name = "TEXT", requires = "bundle_file")]
    pub(super) note: Option<String>,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    pub(super) output: OutputFormat,
    #[command(flatten)]
    pub(super) github: GitHubArguments,
    #[command(flatten)]
    pub(super) connection: ConnectionArguments,
}

impl DoctorArguments {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "agent_url": crate::environment_masking::masked("DEMON_AGENT_URL", self.agent_url.as_str()),
            "api_key": self.key(), "node": self.node_name()?, "bundle": self.bundle, "channel": self.channel,
            "cache": self.cache, "source": self.source, "known_tag": self.known_tag, "failures": self.failures,
            "check_timeout_ms": u64::try_from(self.check_timeout.as_millis()).unwrap_or(u64::MAX),
            "bundle_file": self.bundle_file, "log": self.log, "output": self.output,
            "github": self.github.settings()?,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }

    /// The key, where one is set.
    pub(super) fn key(&self) -> Option<Secret> {
        self.api_key.as_deref().map(str::trim).filter(|key| !key.is_empty()).map(Secret::new)
    }

    /// The node: as given, else as the agent of the cache calls itself, else the host's name.
    pub(super) fn node_name(&self) -> anyhow::Result<NodeName> {
        if let Some(node) = &self.node {
            return Ok(node.clone());
        }
        let presence = AgentPresence::find(&AgentPresence::default_state_directory(&self.cache));
        if let Some(facts) = presence.and_then(|presence| presence.facts) {
            return Ok(facts.node);
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        host.split('.').next().unwrap_or_default().parse().context("the host name is no node's name: give --node")
    }
}
