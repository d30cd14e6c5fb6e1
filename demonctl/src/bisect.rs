//! `demonctl bisect`: which promotion of a channel broke something, found by a command of the user's.
//!
//! Described in `docs/ARCHITECTURE.md`. Each release that is tried is fetched and verified as an agent does it, into a
//! directory of its own that is gone afterwards.

mod candidates;
mod search;
mod trial;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use publisher::channel::{MoveError, read_history};
use publisher::channel_history::{ChannelHead, ChannelHistory};
use publisher::release_register::ReleaseRegister;
use serde::Serialize;
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::event::{GitFacts, PromotionCause};
use shared::identifiers::{ActorName, BundleName, ChannelName, Tag};
use streams::connection_arguments::ConnectionArguments;
use streams::event_log::EventLog;

use self::candidates::{Place, range};
use self::search::{Search, Step};
use self::trial::{Trials, Tried};
use crate::operator;
use crate::output::{OutputFormat, note, print_document, printable};

#[derive(Debug, Args)]
pub(crate) struct BisectArguments {
    /// The channel whose promotions are searched.
    channel: ChannelName,
    /// The bundle.
    #[arg(long, env = "DEMON_BUNDLE", value_name = "NAME", default_value = "contracts")]
    bundle: BundleName,
    /// A promotion that was good: the tag it moved to (the last such promotion before the bad one) or its stream sequence.
    #[arg(long, value_name = "TAG|SEQUENCE")]
    good: Place,
    /// A later promotion that was bad: the tag it moved to (the last such promotion) or its stream sequence.
    #[arg(long, value_name = "TAG|SEQUENCE")]
    bad: Place,
    /// Form of the output.
    #[arg(long, env = "DEMON_OUTPUT", default_value = "table", value_enum)]
    output: OutputFormat,
    /// The command that judges a release, run in a directory with its files. Exit code 0 means good, 1 to 124 bad,
    /// 125 cannot say; a higher one or a signal ends the search. It finds `DEMON_BISECT_TAG`, and
    /// likewise `SEQUENCE`, `DIRECTORY`, `TREE_DIGEST`, `CHANNEL` and `BUNDLE`, in its environment. What it prints goes to standard error.
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// A promotion.
#[derive(Debug, Serialize)]
struct Promotion {
    sequence: u64,
    time: Option<DateTime<Utc>>,
    tag: Tag,
    tree_digest: Sha256Digest,
    previous_tag: Option<Tag>,
    cause: PromotionCause,
    actor: ActorName,
    reason: Option<String>,
    /// The commit the release was made from, where it was announced.
    git: Option<GitFacts>,
}

#[derive(Debug, Serialize)]
struct Found {
    bundle: BundleName,
    channel: ChannelName,
    /// The first bad promotion; absent where skipped ones leave it open.
    first_bad: Option<Promotion>,
    /// The last promotion that is known to be good.
    last_good: Promotion,
    /// Where it is open: every promotion that may be the first bad one.
    candidates: Vec<Promotion>,
    /// What was tried, in order.
    tried: Vec<Tried>,
}

impl BisectArguments {
    /// The effective settings, secrets masked.
    pub(crate) fn settings(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "channel": self.channel,
            "bundle": self.bundle,
            "good": self.good,
            "bad": self.bad,
            "command": self.command,
            "output": self.output,
            "connection": operator::connection_settings(&self.connection)?,
        }))
    }
}

/// Searches. Exit code 1 where skipped releases leave the answer open.
pub(crate) async fn run(arguments: BisectArguments) -> anyhow::Result<ExitCode> {
    let connection = operator::connect(&arguments.connection).await?;
    let log = EventLog::new(connection.clone());
    let (bundle, channel) = (&arguments.bundle, &arguments.channel);
    let history = read_history(&log, bundle, channel).await.context("the channel's history cannot be read")?;
    if history.last_sequence() == 0 {
        return Err(MoveError::NoSuchChannel { bundle: bundle.clone(), channel: channel.clone() }.into());
    }
    let register = ReleaseRegister::read(&log, bundle).await.context("the bundle's releases cannot be read")?;
    let moves = changes(&history);
    let places: Vec<(u64, Tag)> = moves.iter().map(|head| (head.stream_sequence, head.promoted.tag.clone())).collect();
    let (good, bad) = range(&places, &arguments.good, &arguments.bad)?;

    let mut search = Search::new(good, bad);
    let mut trials = Trials::new(&connection, &register, &arguments.command);
    let (last_good, first_bad, open) = loop {
        match search.next() {
            Step::Try(index) => {
                note(&format!("{} promotions left, about {} trials", search.left(), search.trials_left()));
                match trials.judge(moves[index]).await? {
                    Some(verdict) => search.record(index, verdict),
                    None => bail!("the command ended the search at release `{}`", moves[index].promoted.tag),
                }
            }
            Step::Found { last_good, first_bad } => break (last_good, Some(first_bad), Vec::new()),
            Step::Open { last_good, candidates } => break (last_good, None, candidates),
        }
    };
    let promotion = |index: usize| describe(moves[index], &history, &register);
    let found = Found {
        bundle: bundle.clone(),
        channel: channel.clone(),
        first_bad: first_bad.map(promotion),
        last_good: promotion(last_good),
        candidates: open.into_iter().map(promotion).collect(),
        tried: trials.into_tried(),
    };
    connection.drain().await;
    print_document(arguments.output, &found, || for_people(&found))?;
    Ok(if found.first_bad.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The moves that brought other content: a freeze or a release of a hold changes nothing.
fn changes(history: &ChannelHistory) -> Vec<&ChannelHead> {
    let mut changes: Vec<&ChannelHead> = Vec::new();
    for head in history.moves() {
        let same = |last: &&ChannelHead| {
            (&last.promoted.tag, last.promoted.tree_digest) == (&head.promoted.tag, head.promoted.tree_digest)
        };
        if !changes.last().is_some_and(same) {
            changes.push(head);
        }
    }
    changes
}

fn describe(head: &ChannelHead, history: &ChannelHistory, register: &ReleaseRegister) -> Promotion {
    let promoted = head.promoted.clone();
    let announced = register.find(&promoted.tag).filter(|(release, _)| release.tree_digest == promoted.tree_digest);
    Promotion {
        sequence: head.stream_sequence,
        time: history.stored_at(head),
        git: announced.and_then(|(release, _)| release.git.clone()),
        tag: promoted.tag,
        tree_digest: promoted.tree_digest,
        previous_tag: promoted.previous_tag,
        cause: promoted.cause,
        actor: promoted.actor,
        reason: promoted.reason,
    }
}

fn for_people(found: &Found) -> String {
    let line = |promotion: &Promotion| {
        let time =
            promotion.time.map_or_else(|| "-".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true));
        let commit = promotion.git.as_ref().map(|git| format!(", commit {}", printable(&git.sha)));
        let reason = promotion.reason.as_ref().map(|reason| format!(": {}", printable(reason)));
        format!(
            "{} (event {}, {time}, {} by {}{}{})",
            promotion.tag,
            promotion.sequence,
            promotion.cause.as_str(),
            promotion.actor,
            commit.unwrap_or_default(),
            reason.unwrap_or_default()
        )
    };
    let mut lines = Vec::new();
    if let Some(first) = &found.first_bad {
        lines.push(format!("first bad    {}", line(first)));
    } else {
        lines.push("Releases that could not be judged leave it open; the first bad one is among".to_owned());
        lines.extend(found.candidates.iter().map(|candidate| format!("  {}", line(candidate))));
    }
    lines.push(format!("last good    {}", line(&found.last_good)));
    lines.push(format!("tried        {}", found.tried.len()));
    lines.join("\n")
}
