//! The options of `demon-publisher publish`.

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use shared::event::Trigger;
use shared::identifiers::Tag;

use super::TriggerArgument;
use super::durability::{DurabilityArguments, DurabilityConfig};
use super::faults::{ConfigFaults, given, shown};
use super::publisher::{PublisherArguments, PublisherConfig};

/// Publishes what there is and exits. Unchanged content is no new release, and exit code 0.
#[derive(Debug, Clone, Args)]
pub struct PublishArguments {
    /// Tag of the release. Without it: `<bundle>-YYYYMMDD-<sha8>`, of the commit, or of the content where the source is
    /// not exactly a commit
    #[arg(long, env = "DEMON_PUBLISHER_TAG", value_name = "TAG")]
    pub tag: Option<String>,

    /// Time of the release: RFC 3339, or seconds since 1970; without it: now
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "TIME")]
    pub timestamp: Option<String>,

    /// What made us publish, for the log
    #[arg(long, env = "DEMON_TRIGGER", value_name = "TRIGGER", default_value = "local", value_enum)]
    pub trigger: TriggerArgument,

    /// Release also content that has not changed
    #[arg(long, env = "DEMON_FORCE_RELEASE", value_parser = clap::builder::BoolishValueParser::new())]
    pub force: bool,

    /// What is asked of the server first.
    #[command(flatten)]
    pub durability: DurabilityArguments,

    /// What to publish.
    #[command(flatten)]
    pub publisher: PublisherArguments,
}

/// Settings of one publish, each of them checked. Serialising it masks every secret.
#[derive(Debug, Clone, Serialize)]
pub struct PublishConfig {
    /// What every publisher has.
    #[serde(flatten)]
    pub publisher: PublisherConfig,
    /// The tag, where it is not derived.
    pub tag: Option<Tag>,
    /// The release's time, where it is not now.
    pub timestamp: Option<DateTime<Utc>>,
    /// What made us publish.
    pub trigger: Trigger,
    /// Release also unchanged content.
    pub force: bool,
    /// What is asked of the server first.
    #[serde(flatten)]
    pub durability: DurabilityConfig,
}

impl PublishArguments {
    /// Checks every option and reports all faults at once. Looks whether the source is a directory, and at nothing else.
    pub fn check(&self) -> Result<PublishConfig, ConfigFaults> {
        let mut faults = ConfigFaults::default();
        let publisher = faults.take_all(self.publisher.check());
        let tag = given(self.tag.as_ref()).and_then(|tag| faults.take("--tag (DEMON_PUBLISHER_TAG)", tag.parse()));
        let timestamp = given(self.timestamp.as_ref())
            .and_then(|time| faults.take("--timestamp (SOURCE_DATE_EPOCH)", parse_time(time)));
        let durability = self.durability.check(&mut faults);
        match publisher {
            Some(publisher) if faults.is_empty() => {
                let (trigger, force) = (self.trigger.into(), self.force);
                Ok(PublishConfig { publisher, tag, timestamp, trigger, force, durability })
            }
            Some(_) | None => Err(faults),
        }
    }
}

/// A time as an option gives it: RFC 3339, or seconds since 1970.
pub fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    let seconds = text.parse::<i64>().ok().filter(|seconds| *seconds >= 0);
    let time = seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    let time = time.or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc)));
    time.ok_or_else(|| format!("`{}` is neither an RFC 3339 time nor seconds since 1970", shown(text)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{CommandLine, PublisherCommand};
    use super::*;

    fn check(arguments: &[&str]) -> Result<PublishConfig, ConfigFaults> {
        let here = ["demon-publisher", "publish", "--source", env!("CARGO_MANIFEST_DIR")];
        match CommandLine::try_parse_from([&here, arguments].concat()).unwrap().command {
            PublisherCommand::Publish(arguments) => arguments.check(),
            PublisherCommand::Serve(_) => panic!("it said publish"),
        }
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
        let faults = check(&[
            "--bundle",
            "log",
            "--replicas",
            "0",
            "--deltas",
            "17",
            "--git-sha",
            "abc",
            "--tag",
            "a/b",
            "--timestamp",
            "x",
        ])
        .unwrap_err()
        .to_string();
        for option in ["--bundle", "--replicas", "--deltas", "--git-sha", "--tag", "--timestamp"] {
            assert!(faults.contains(option), "{option}: {faults}");
        }
    }

    #[test]
    fn empty_variables_count_as_not_set() {
        let config = check(&["--git-sha", "", "--timestamp", "", "--tag", ""]).unwrap();
        assert_eq!((config.publisher.git_sha, config.timestamp, config.tag), (None, None, None));
    }

    #[test]
    fn without_promotion_there_is_no_channel() {
        assert_eq!(check(&[]).unwrap().publisher.channel.unwrap().as_str(), "latest");
        assert_eq!(check(&["--no-promote"]).unwrap().publisher.channel, None);
    }
}
