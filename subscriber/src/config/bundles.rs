//! Which bundles the agent runs, which release of each, and where.
//!
//! Settings of a bundle stand in its own entry of `--bundle`; what it leaves open, `--channel`, `--tag` and `--cache` say.
//! Described in `docs/adr/0014-several-bundles-in-one-agent.md`.

mod entry;

use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde::Serialize;
use shared::identifiers::{BundleName, ChannelName, Tag};

use self::entry::Entry;
use super::ConfigFaults;
use super::values::{absolute, parsed};

/// A "tag" that means: follow the channel.
const UNPINNED: &str = "contracts-latest";
/// The bundle that `DEMON_CONTRACTS_TAG` is about where there are several.
const CONTRACTS: &str = "contracts";
/// More than a node has any use for: each is listened for, and stands in the node's entry of the node table.
const MOST_BUNDLES: usize = 16;
const BUNDLE: &str = "--bundle (DEMON_BUNDLE)";

/// Options about bundles.
#[derive(Debug, Clone, Args)]
pub struct BundleArguments {
    /// Bundle to run, as `NAME[=DIRECTORY][,channel=NAME][,tag=TAG][,prefetch=on|off]`; given again for each further bundle,
    /// or several separated by `;`. A directory holds no `,` and no `;`. What is left out, --channel, --tag, --cache and
    /// --prefetch say
    #[arg(
        long = "bundle",
        env = "DEMON_BUNDLE",
        value_name = "BUNDLE",
        default_value = "contracts",
        value_delimiter = ';'
    )]
    pub bundles: Vec<String>,

    /// Channel to follow, for every bundle whose entry names none
    #[arg(long, env = "DEMON_CHANNEL", value_name = "NAME", default_value = "latest")]
    pub channel: String,

    /// Run the release of this tag, wherever the channel points; `contracts-latest` means: follow the channel. Of several
    /// bundles it is about `contracts`
    #[arg(long, env = "DEMON_CONTRACTS_TAG", value_name = "TAG")]
    pub tag: Option<String>,

    /// Fetch and verify the newest release when it is announced, so that a promotion costs only the switch: it lies in the
    /// cache from then on and is not run before. Costs the bytes of each release that is announced and never promoted to the
    /// channel; `off` fetches on promotion. A pinned bundle fetches nothing ahead. For every bundle whose entry does not say
    #[arg(
        long,
        env = "DEMON_PREFETCH",
        value_name = "ON|OFF",
        default_value = "on",
        num_args = 0..=1,
        default_missing_value = "on",
        action = clap::ArgAction::Set,
        value_parser = clap::builder::BoolishValueParser::new()
    )]
    pub prefetch: bool,

    /// Directory that holds the releases, for the one bundle whose entry names none; may be deleted at any time, the agent
    /// fills it again
    #[arg(long, env = "DEMON_CONTRACTS_CACHE", value_name = "DIRECTORY", default_value = ".demon/contracts")]
    pub cache: PathBuf,

    /// Directory of this agent's memory and of events not yet sent; one agent each [default: `agent` beside the cache of
    /// the first bundle]
    #[arg(long, env = "DEMON_STATE_DIR", value_name = "DIRECTORY")]
    pub state_dir: Option<PathBuf>,
}

/// What decides which release of a bundle a node should run.
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

/// One bundle that the agent runs. Settings that may differ between the bundles of a node belong here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BundleConfig {
    /// Its name.
    pub bundle: BundleName,
    /// Which release of it.
    pub follow: Follow,
    /// The channel that it would follow if it were not pinned: what is newer there is reported.
    pub channel: ChannelName,
    /// Its cache directory, absolute.
    pub cache: PathBuf,
    /// Whether releases are fetched when they are announced, where a channel is followed.
    pub prefetch: bool,
}

/// The bundles and the directories, each of them checked.
#[derive(Debug, Clone, Serialize)]
pub struct BundlesConfig {
    /// The bundles, in the order they were given, each once; at least one.
    pub bundles: Vec<BundleConfig>,
    /// The state directory, absolute.
    pub state_dir: PathBuf,
}

impl BundleArguments {
    pub(super) fn check(&self, faults: &mut ConfigFaults) -> Option<BundlesConfig> {
        let entries: Vec<&str> = self.bundles.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
        if entries.is_empty() || entries.len() > MOST_BUNDLES {
            faults.add(BUNDLE, &format!("{} bundles are named; an agent runs 1 to {MOST_BUNDLES}", entries.len()));
            return None;
        }
        // Every fault is told, also of the entries behind the first wrong one.
        let entries: Vec<Option<Entry>> = entries.into_iter().map(|text| Entry::parse(text, BUNDLE, faults)).collect();
        let channel: Option<ChannelName> = parsed(&self.channel, "--channel (DEMON_CHANNEL)", faults);
        let tag = self.tag.as_deref().filter(|tag| !tag.is_empty() && *tag != UNPINNED);
        let tag: Option<Option<Tag>> =
            tag.map_or(Some(None), |tag| parsed(tag, "--tag (DEMON_CONTRACTS_TAG)", faults).map(Some));
        let cache = absolute(&self.cache, "--cache (DEMON_CONTRACTS_CACHE)", faults);
        let entries: Vec<Entry> = entries.into_iter().collect::<Option<_>>()?;
        let (channel, tag, cache) = (channel?, tag?, cache?);

        let several = entries.len() > 1;
        if several && tag.is_some() && !entries.iter().any(|entry| entry.name.as_str() == CONTRACTS) {
            let fault = "of which bundle? With several, pin one in its entry: --bundle NAME=DIRECTORY,tag=TAG";
            faults.add("--tag (DEMON_CONTRACTS_TAG)", fault);
        }
        let mut bundles = Vec::new();
        for entry in entries {
            let tag = tag.clone().filter(|_| !several || entry.name.as_str() == CONTRACTS);
            let beside = entry.channel.clone().unwrap_or_else(|| channel.clone());
            let follow = match (entry.tag, entry.channel, tag) {
                (Some(tag), ..) | (None, None, Some(tag)) => Follow::Tag(tag),
                (None, Some(_), _) | (None, None, None) => Follow::Channel(beside.clone()),
            };
            let own = entry.directory.map(|directory| absolute(&directory, BUNDLE, faults));
            let cache = own.unwrap_or_else(|| Some(cache.clone()))?;
            let prefetch = entry.prefetch.unwrap_or(self.prefetch);
            bundles.push(BundleConfig { bundle: entry.name, follow, channel: beside, cache, prefetch });
        }
        let beside = || bundles.first().and_then(|first| first.cache.parent()).unwrap_or(Path::new("")).join("agent");
        let state_dir = self.state_dir.clone().unwrap_or_else(beside);
        let state_dir = absolute(&state_dir, "--state-dir (DEMON_STATE_DIR)", faults)?;
        check_apart(&bundles, &state_dir, faults);
        Some(BundlesConfig { bundles, state_dir })
    }
}

/// Refuses what would make one bundle destroy what another one, or the agent itself, keeps.
fn check_apart(bundles: &[BundleConfig], state_dir: &Path, faults: &mut ConfigFaults) {
    for (place, bundle) in bundles.iter().enumerate() {
        let (name, cache) = (&bundle.bundle, normal(&bundle.cache));
        if normal(state_dir).starts_with(&cache) {
            let fault = "it lies inside the cache, which may be deleted at any time";
            faults.add("--state-dir (DEMON_STATE_DIR)", fault);
        }
        for other in &bundles[..place] {
            if other.bundle == *name {
                faults.add(BUNDLE, &format!("bundle `{name}` is named twice"));
                continue;
            }
            if let Some(fault) = overlap((&other.bundle, &normal(&other.cache)), (name, &cache)) {
                faults.add(BUNDLE, &fault);
            }
        }
    }
}

/// What is wrong with the caches of two bundles, where that is something.
pub(crate) fn overlap(one: (&BundleName, &Path), other: (&BundleName, &Path)) -> Option<String> {
    let fault = |inner: (&BundleName, &Path), outer: (&BundleName, &Path)| {
        format!(
            "the cache `{}` of bundle `{}` lies inside that of bundle `{}`: give each its own, --bundle {}=DIRECTORY",
            inner.1.display(),
            inner.0,
            outer.0,
            inner.0
        )
    };
    match (one.1.starts_with(other.1), other.1.starts_with(one.1)) {
        (true, true) => Some(format!(
            "bundles `{}` and `{}` share the cache `{}`: give each its own, --bundle {}=DIRECTORY",
            one.0,
            other.0,
            one.1.display(),
            other.0
        )),
        (true, false) => Some(fault(one, other)),
        (false, true) => Some(fault(other, one)),
        (false, false) => None,
    }
}

/// An absolute path without `.` and `..`, by its text alone: links are looked at when the agent starts.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => normal.push(component),
        }
    }
    normal
}

#[cfg(test)]
mod tests;
