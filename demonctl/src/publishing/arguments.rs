//! The options of a publish.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{ArgAction, Args};
use publisher::author::Author;
use publisher::config::{DurabilityArguments, TriggerArgument, parse_time};
use publisher::contracts_bundle::CONTRACTS_BUNDLE;
use publisher::delta::MOST_DELTAS;
use publisher::git_facts::is_commit_sum;
use serde_json::{Value, json};
use shared::event::Trigger;
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use streams::connection_arguments::ConnectionArguments;

use crate::operator::{self, ActorArguments};
use crate::output::OutputFormat;
use crate::rollout_wait::WaitArguments;

/// What the log has room for beside everything else.
const LONGEST_TEXT: usize = 1000;

/// An option's value; a variable that is set to nothing counts as not set.
#[derive(Debug, Clone)]
pub(crate) struct Given<T>(Option<T>);

impl<T: Clone> Given<T> {
    fn of(option: Option<&Self>) -> Option<T> {
        option.and_then(|given| given.0.clone())
    }
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own on the command line")]
pub(crate) struct PublishingArguments {
    #[command(flatten)]
    pub(super) actor: ActorArguments,

    /// Channel to move to the release. A held channel stays where it is; to a frozen one nothing is published.
    #[arg(long, env = "DEMON_CHANNEL", value_name = "NAME", default_value = "latest")]
    channel: ChannelName,

    /// Publish without moving a channel.
    #[arg(long, env = "DEMON_NO_PROMOTE", value_parser = clap::builder::BoolishValueParser::new())]
    no_promote: bool,

    /// Tag of the release. Without it: `<bundle>-YYYYMMDD-<sha8>`, of the commit, or of the content where the source
    /// is not exactly a commit.
    #[arg(long, env = "DEMON_PUBLISH_TAG", value_name = "TAG", value_parser = given::<Tag>)]
    tag: Option<Given<Tag>>,

    /// Commit that the source is made from, 40 lowercase hex digits; without it git is asked.
    #[arg(long, env = "DEMON_GIT_SHA", value_name = "SHA", value_parser = given_commit)]
    git_sha: Option<Given<String>>,

    /// Full reference of the commit, for example `refs/heads/main`; without it git is asked.
    #[arg(long, env = "DEMON_GIT_REF", value_name = "REF", value_parser = given_text)]
    git_ref: Option<Given<String>>,

    /// Repository of the commit, `owner/name`; without it git is asked for `origin`.
    #[arg(long, env = "DEMON_REPOSITORY", value_name = "OWNER/NAME", value_parser = given_text)]
    repository: Option<Given<String>>,

    /// Time of the release: RFC 3339, or seconds since 1970; without it: now. The same source, commit and time give
    /// the same bytes.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "TIME", value_parser = given_time)]
    timestamp: Option<Given<DateTime<Utc>>>,

    /// What makes us publish, for the log. `schedule` cuts the day's release although nothing changed.
    #[arg(long, env = "DEMON_TRIGGER", value_name = "TRIGGER", default_value = "local", value_enum)]
    pub(super) trigger: TriggerArgument,

    /// Publish although nothing changed: a tag that has this content already is announced again. Takes `true` or
    /// `false` behind `=`.
    #[arg(
        long,
        env = "DEMON_FORCE",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        value_name = "BOOLEAN",
        value_parser = switch
    )]
    pub(super) force: bool,

    /// Refuse contracts that break who reads the channel's release now.
    #[arg(long, env = "DEMON_REQUIRE_COMPATIBLE", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) require_compatible: bool,

    /// Release to compare with; without it the channel's, or the newest.
    #[arg(long, env = "DEMON_BASE_TAG", value_name = "TAG", value_parser = given::<Tag>)]
    base: Option<Given<Tag>>,

    /// Most deltas that the release gets, each from a release that nodes run now; 0 builds none. A delta lets a node
    /// fetch only what changed.
    #[arg(
        long,
        env = "DEMON_DELTAS",
        value_name = "NUMBER",
        default_value = "3",
        value_parser = clap::value_parser!(u32).range(0..=i64::from(MOST_DELTAS))
    )]
    pub(super) deltas: u32,

    /// Whether and how long to wait for the nodes.
    #[command(flatten)]
    pub(super) wait: WaitArguments,

    /// Say what would happen and write nothing.
    #[arg(long, env = "DEMON_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) dry_run: bool,

    /// Why, in words for the log of the channel.
    #[arg(long, env = "DEMON_REASON", value_name = "TEXT", value_parser = given_text)]
    reason: Option<Given<String>>,

    /// Publish as a publisher with this state directory, not as the operator; one publisher each.
    #[arg(long, env = "DEMON_PUBLISHER_STATE", value_name = "DIRECTORY")]
    publisher_state: Option<PathBuf>,

    /// Name of that publisher in the log.
    #[arg(long = "name", env = "DEMON_PUBLISHER_NAME", value_name = "NAME", default_value = "main")]
    publisher_name: ActorName,

    /// Copies of each stream, 1 to 5, where it does not exist yet: 1 on a single server, 3 on a cluster.
    #[arg(
        long,
        env = "DEMON_REPLICAS",
        value_name = "NUMBER",
        default_value = "1",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=5)
    )]
    pub(super) replicas: usize,

    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    pub(super) output: OutputFormat,

    // Last, because the options after it would be shown under its heading.
    #[command(flatten)]
    pub(super) durability: DurabilityArguments,

    #[command(flatten)]
    pub(super) connection: ConnectionArguments,
}

impl PublishingArguments {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        let author = self.author_name()?;
        Ok(json!({
            "actor": author,
            "publisher_state": self.publisher_state,
            "channel": self.channel(),
            "tag": self.tag(),
            "git_sha": self.git_sha(),
            "git_ref": self.git_ref(),
            "repository": self.repository(),
            "timestamp": self.timestamp(),
            "trigger": Trigger::from(self.trigger),
            "force": self.force,
            "require_compatible": self.require_compatible,
            "base": self.base(),
            "deltas": self.deltas,
            "wait": self.wait.settings(),
            "dry_run": self.dry_run,
            "reason": self.reason(),
            "replicas": self.replicas,
            "durability": self.durability.checked()?,
            "output": self.output,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }

    /// Options that make no sense together, in words.
    pub(super) fn fault(&self, bundle: &BundleName) -> Option<String> {
        let contracts = bundle.as_str() == CONTRACTS_BUNDLE;
        if !contracts && (self.require_compatible || self.base().is_some()) {
            return Some(format!(
                "compatibility is known of contracts only: `{bundle}` takes neither --require-compatible nor --base"
            ));
        }
        if let Err(faults) = self.durability.checked() {
            return Some(faults.to_string());
        }
        if self.base().is_some() && !self.require_compatible && !self.dry_run {
            return Some("--base says what to compare with: it needs --require-compatible or --dry-run".to_owned());
        }
        (self.wait.wait && self.no_promote).then(|| "--wait waits for a channel, --no-promote moves none".to_owned())
    }

    /// Who publishes, as events name them.
    pub(super) fn author_name(&self) -> anyhow::Result<ActorName> {
        match &self.publisher_state {
            Some(_) => Ok(self.publisher_name.clone()),
            None => self.actor.name(),
        }
    }

    /// Who publishes: the operator, or a publisher with its memory.
    pub(super) fn author(&self) -> anyhow::Result<Author> {
        match &self.publisher_state {
            Some(directory) => Author::publisher(self.publisher_name.clone(), directory)
                .context("the publisher's state directory cannot be used"),
            None => Ok(Author::operator(self.actor.name()?)),
        }
    }

    pub(super) fn channel(&self) -> Option<ChannelName> {
        (!self.no_promote).then(|| self.channel.clone())
    }

    pub(super) fn tag(&self) -> Option<Tag> {
        Given::of(self.tag.as_ref())
    }

    pub(super) fn base(&self) -> Option<Tag> {
        Given::of(self.base.as_ref())
    }

    pub(super) fn git_sha(&self) -> Option<String> {
        Given::of(self.git_sha.as_ref())
    }

    pub(super) fn git_ref(&self) -> Option<String> {
        Given::of(self.git_ref.as_ref())
    }

    pub(super) fn repository(&self) -> Option<String> {
        Given::of(self.repository.as_ref())
    }

    pub(super) fn timestamp(&self) -> Option<DateTime<Utc>> {
        Given::of(self.timestamp.as_ref())
    }

    pub(super) fn reason(&self) -> Option<String> {
        Given::of(self.reason.as_ref())
    }
}

fn given<T: FromStr>(text: &str) -> Result<Given<T>, T::Err> {
    if text.is_empty() { Ok(Given(None)) } else { text.parse().map(|value| Given(Some(value))) }
}

fn given_time(text: &str) -> Result<Given<DateTime<Utc>>, String> {
    if text.is_empty() { Ok(Given(None)) } else { parse_time(text).map(|time| Given(Some(time))) }
}

fn given_commit(text: &str) -> Result<Given<String>, String> {
    if !text.is_empty() && !is_commit_sum(text) {
        return Err("it is not 40 lowercase hex digits".to_owned());
    }
    given_text(text)
}

fn given_text(text: &str) -> Result<Given<String>, String> {
    if text.chars().any(char::is_control) {
        return Err("it holds control characters".to_owned());
    }
    if text.len() > LONGEST_TEXT {
        return Err(format!("it is longer than {LONGEST_TEXT} bytes"));
    }
    Ok(Given((!text.is_empty()).then(|| text.to_owned())))
}

/// A boolean as workflows and scripts write it. Only what says yes is yes; nothing at all is no.
fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("it is neither `true` nor `false`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches as _};

    use super::*;

    fn parsed(arguments: &[&str]) -> Result<PublishingArguments, clap::Error> {
        let command = PublishingArguments::augment_args(Command::new("publish"));
        let matches = command.try_get_matches_from([&["publish"], arguments].concat())?;
        PublishingArguments::from_arg_matches(&matches)
    }

    #[test]
    fn a_forced_release_is_asked_for_in_words_and_false_is_no() {
        for (arguments, expected) in [
            (&[][..], false),
            (&["--force"], true),
            (&["--force=true"], true),
            (&["--force=1"], true),
            (&["--force=TRUE"], true),
            (&["--force=false"], false),
            (&["--force=0"], false),
            (&["--force="], false),
        ] {
            assert_eq!(parsed(arguments).unwrap().force, expected, "{arguments:?}");
        }
        assert!(parsed(&["--force=maybe"]).is_err());
        assert!(parsed(&["--force", "false"]).is_err(), "a word of its own is no value");
    }

    #[test]
    fn an_empty_value_is_none() {
        let arguments = parsed(&["--tag=", "--git-sha=", "--timestamp=", "--reason=", "--base="]).unwrap();
        assert_eq!((arguments.tag(), arguments.git_sha(), arguments.timestamp()), (None, None, None));
        assert_eq!((arguments.reason(), arguments.base()), (None, None));
    }

    #[test]
    fn unusable_values_are_wrong_usage() {
        for arguments in [
            ["--git-sha", "0658fb8b"],
            ["--tag", "a/b"],
            ["--timestamp", "yesterday"],
            ["--repository", "a\nb"],
            ["--replicas", "0"],
            ["--deltas", "17"],
            ["--trigger", "push"],
        ] {
            assert!(parsed(&arguments).is_err(), "{arguments:?}");
        }
        assert!(parsed(&["--reason", &"x".repeat(LONGEST_TEXT + 1)]).is_err());
    }

    #[test]
    fn options_that_contradict_each_other_are_named() {
        let fault = |bundle: &str, arguments: &[&str]| parsed(arguments).unwrap().fault(&bundle.parse().unwrap());
        assert_eq!(fault("contracts", &["--require-compatible", "--base", "v1"]), None);
        assert_eq!(fault("contracts", &["--dry-run", "--base", "v1"]), None);
        assert!(fault("contracts", &["--base", "v1"]).unwrap().contains("--require-compatible"));
        assert!(fault("policies", &["--require-compatible"]).unwrap().contains("contracts only"));
        assert!(fault("policies", &["--dry-run", "--base", "v1"]).unwrap().contains("contracts only"));
        assert!(fault("policies", &["--wait", "--no-promote"]).unwrap().contains("--no-promote"));
        assert_eq!(fault("policies", &["--wait"]), None);
    }

    #[test]
    fn the_operator_publishes_unless_a_state_directory_makes_a_publisher() {
        let operator = parsed(&["--actor", "ada"]).unwrap();
        assert_eq!(operator.author().unwrap().source().to_string(), "/operators/ada");
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let publisher = parsed(&["--publisher-state", state.to_str().unwrap(), "--name", "ci"]).unwrap();
        assert_eq!(publisher.author().unwrap().source().to_string(), "/publishers/ci");
    }
}
