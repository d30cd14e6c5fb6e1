//! The options that every way to publish shares: what, as whom, into which channel, through which server.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use shared::daemon::{ErrorChain, LogFormat};
use shared::identifiers::{ActorName, BundleName, ChannelName};
use streams::connection_arguments::ConnectionArguments;
use streams::connection_settings::ConnectionSettings;

use super::LogFormatArgument;
use super::faults::{ConfigFaults, given, shown};
use crate::contracts_bundle::CONTRACTS_BUNDLE;
use crate::delta::MOST_DELTAS;
use crate::git_facts::is_commit_sum;
use crate::github::{GitHubArguments, GitHubSettings};

/// Inbox of a publisher's replies; nodes have one of their own each.
const INBOX_PREFIX: &str = "_INBOX";
/// What a cluster of nats-servers can hold.
const MOST_REPLICAS: usize = 5;

/// What to publish, as whom, and into which channel.
#[derive(Debug, Clone, Args)]
pub struct PublisherArguments {
    /// Where releases come from; from GitHub, each one not yet announced is taken over under its own tag
    #[arg(long, env = "DEMON_PUBLISHER_SOURCE_KIND", value_name = "KIND", default_value = "directory", value_enum)]
    pub source_kind: SourceKind,

    /// Directory to publish; everything below it but `.git`. Not read with `--source-kind github`
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

    /// Refuse contracts that break the readers of the channel's release; for the bundle `contracts` only
    #[arg(long, env = "DEMON_REQUIRE_COMPATIBLE", value_parser = clap::builder::BoolishValueParser::new())]
    pub require_compatible: bool,

    /// Most deltas that a release gets, each from a release that nodes run now; 0 builds none. A delta lets a node fetch
    /// only what changed
    #[arg(long, env = "DEMON_DELTAS", value_name = "NUMBER", default_value = "3")]
    pub deltas: String,

    /// Name of this publisher in the log: letters, digits, `_`, `-`, at most 64
    #[arg(long, env = "DEMON_PUBLISHER_NAME", value_name = "NAME", default_value = "main")]
    pub name: String,

    /// Directory of this publisher's memory of the events it wrote; one publisher each
    #[arg(long, env = "DEMON_PUBLISHER_STATE", value_name = "DIRECTORY", default_value = ".demon/publisher")]
    pub state_dir: PathBuf,

    /// Commit that the source is made from, 40 hex digits; without it git is asked
    #[arg(long, env = "DEMON_GIT_SHA", value_name = "SHA")]
    pub git_sha: Option<String>,

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

    /// Where the releases of `--source-kind github` lie.
    #[command(flatten)]
    pub github: GitHubArguments,
}

/// Where releases come from, as an option names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SourceKind {
    /// A directory of this machine: `--source`
    Directory,
    /// The contract releases of a repository: `--github-repository`
    #[value(name = "github")]
    GitHub,
}

/// Where releases come from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// This directory, whenever its content changes.
    Directory(PathBuf),
    /// This repository's contract releases.
    #[serde(rename = "github")]
    GitHub(Box<GitHubSettings>),
}

impl fmt::Display for SourceConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(formatter, "directory `{}`", directory.display()),
            Self::GitHub(settings) => write!(formatter, "GitHub repository `{}`", settings.repository),
        }
    }
}

/// Settings of every publisher, each of them checked. Serialising it masks every secret.
#[derive(Debug, Clone, Serialize)]
pub struct PublisherConfig {
    /// What to publish.
    pub source: SourceConfig,
    /// The bundle.
    pub bundle: BundleName,
    /// The channel to move; `None` with `--no-promote`.
    pub channel: Option<ChannelName>,
    /// Whether contracts that break their readers are refused.
    pub require_compatible: bool,
    /// Most deltas that a release gets.
    pub deltas: u32,
    /// The publisher's name.
    pub name: ActorName,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// The commit, where git is not asked.
    pub git_sha: Option<String>,
    /// Copies of each stream that is created.
    pub replicas: usize,
    /// Form of the log.
    pub log_format: LogFormat,
    /// How to reach the server.
    pub connection: ConnectionSettings,
}

impl PublisherArguments {
    /// Checks every option and reports all faults at once. Looks whether the source is a directory, and at nothing else.
    pub(super) fn check(&self) -> Result<PublisherConfig, ConfigFaults> {
        let mut faults = ConfigFaults::default();
        let source = self.source(&mut faults);
        let bundle = faults.take("--bundle (DEMON_BUNDLE)", self.bundle.parse());
        let channel = faults.take("--channel (DEMON_CHANNEL)", self.channel.parse());
        let name = faults.take("--name (DEMON_PUBLISHER_NAME)", self.name.parse());
        let git_sha = given(self.git_sha.as_ref());
        if let Some(sha) = git_sha.filter(|sha| !is_commit_sum(sha)) {
            faults.add("--git-sha (DEMON_GIT_SHA)", format!("`{}` is not 40 lowercase hex digits", shown(sha)));
        }
        let replicas: Option<usize> = self.replicas.parse().ok().filter(|count| (1..=MOST_REPLICAS).contains(count));
        if replicas.is_none() {
            faults
                .add("--replicas (DEMON_REPLICAS)", format!("`{}` is not a number from 1 to 5", shown(&self.replicas)));
        }
        let deltas: Option<u32> = self.deltas.parse().ok().filter(|count| *count <= MOST_DELTAS);
        if deltas.is_none() {
            let fault = format!("`{}` is not a number from 0 to {MOST_DELTAS}", shown(&self.deltas));
            faults.add("--deltas (DEMON_DELTAS)", fault);
        }
        let settings = self.connection.settings(&format!("demon-publisher {}", self.name), INBOX_PREFIX);
        let connection = faults.take("connection", settings.map_err(|error| ErrorChain(&error).to_string()));

        let checked = (source, bundle, channel, name, (replicas, deltas), connection);
        let (
            (Some(source), Some(bundle), Some(channel), Some(name), (Some(replicas), Some(deltas)), Some(connection)),
            true,
        ) = (checked, faults.is_empty())
        else {
            return Err(faults);
        };
        Ok(PublisherConfig {
            source,
            bundle,
            channel: (!self.no_promote).then_some(channel),
            require_compatible: self.require_compatible,
            deltas,
            name,
            state_dir: self.state_dir.clone(),
            git_sha: git_sha.cloned(),
            replicas,
            log_format: self.log_format.into(),
            connection,
        })
    }

    fn source(&self, faults: &mut ConfigFaults) -> Option<SourceConfig> {
        match self.source_kind {
            SourceKind::Directory if self.source.is_dir() => Some(SourceConfig::Directory(self.source.clone())),
            SourceKind::Directory => {
                let what = if self.source.exists() { "is not a directory" } else { "does not exist" };
                faults.add("--source (DEMON_PUBLISHER_SOURCE)", format!("`{}` {what}", self.source.display()));
                None
            }
            SourceKind::GitHub => {
                if self.bundle != CONTRACTS_BUNDLE {
                    let fault = format!("releases of GitHub are of the bundle `{CONTRACTS_BUNDLE}`");
                    faults.add("--bundle (DEMON_BUNDLE)", fault);
                }
                let settings = self.github.settings();
                let settings = faults.take("GitHub", settings.map_err(|error| ErrorChain(&error).to_string()))?;
                Some(SourceConfig::GitHub(Box::new(settings)))
            }
        }
    }
}
