//! How a release is had most cheaply: its archive, or patches of a release that is here. Pure, but for reading the
//! announcements that a chain of patches leads through.

use std::collections::{BTreeMap, BTreeSet};

use shared::daemon::ErrorChain;
use shared::event::{BundleEvent, FetchStrategy, ObjectReference, Published};
use shared::identifiers::Tag;
use shared::subjects::EventSubject;
use streams::event_log::EventLog;
use streams::release_store::ReleaseStore;
use tokio::task::spawn_blocking;

use crate::cache::Cache;
use crate::retention::stored_releases;

/// Longest chain of patches. Each costs a whole tree on the disk while it is applied.
const LONGEST_CHAIN: usize = 6;

/// How a release will be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// `release.json` and archive.
    Archive,
    /// Patches, one after the other.
    Patches {
        /// The release that the first patch is applied to.
        base: Tag,
        /// At least one; the last gives the release.
        steps: Vec<PatchStep>,
    },
}

/// One patch on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PatchStep {
    /// The delta object.
    pub(crate) delta: ObjectReference,
    /// The release that it gives.
    pub(crate) gives: Published,
}

impl Way {
    /// How events name it.
    pub(crate) fn strategy(&self) -> FetchStrategy {
        match self {
            Self::Archive => FetchStrategy::Archive,
            Self::Patches { .. } => FetchStrategy::Delta,
        }
    }
}

/// What is known of the ways to a release.
#[derive(Debug)]
enum Search {
    Found(Way),
    /// Releases in between, whose announcements may name a cheaper way.
    Unknown(BTreeSet<Tag>),
}

/// The cheapest way to a release from those that are here, by the announcements known so far; or which announcements to
/// read before that can be said. Patches are taken where all of them together are smaller than archive and `release.json`.
fn search(
    wanted: &Published,
    here: &BTreeSet<Tag>,
    known: &BTreeMap<Tag, Published>,
    missing: &BTreeSet<Tag>,
) -> Search {
    let archive = wanted.archive.size.saturating_add(wanted.release.size);
    let mut best: Option<(u64, Tag, Vec<PatchStep>)> = None;
    let mut unknown = BTreeSet::new();
    // Cheapest first, so each release is left once; there are at most as many as announcements were read.
    let mut open: BTreeSet<(u64, usize, Tag)> = BTreeSet::from([(0, 0, wanted.tag.clone())]);
    let mut ways: BTreeMap<Tag, Vec<PatchStep>> = BTreeMap::from([(wanted.tag.clone(), Vec::new())]);
    let mut left = BTreeSet::new();
    while let Some((cost, length, tag)) = open.pop_first() {
        if !left.insert(tag.clone()) || best.as_ref().is_some_and(|(found, ..)| *found <= cost) {
            continue;
        }
        let steps = ways.get(&tag).cloned().unwrap_or_default();
        if !steps.is_empty() && here.contains(&tag) {
            best = Some((cost, tag, steps));
            continue;
        }
        let release = if tag == wanted.tag { Some(wanted) } else { known.get(&tag) };
        let Some(release) = release else {
            if !missing.contains(&tag) && length < LONGEST_CHAIN {
                unknown.insert(tag);
            }
            continue;
        };
        for delta in &release.deltas {
            let cost = cost.saturating_add(delta.object.size);
            if cost < archive && length < LONGEST_CHAIN && !left.contains(&delta.base_tag) {
                let step = PatchStep { delta: delta.object.clone(), gives: release.clone() };
                if open.insert((cost, length + 1, delta.base_tag.clone())) {
                    let cheaper = open.iter().find(|(_, _, found)| found == &delta.base_tag);
                    if cheaper.is_some_and(|(found, ..)| *found == cost) {
                        let way = [step].into_iter().chain(steps.iter().cloned()).collect();
                        ways.insert(delta.base_tag.clone(), way);
                    }
                }
            }
        }
    }
    match best {
        _ if !unknown.is_empty() => Search::Unknown(unknown),
        Some((_, base, steps)) => Search::Found(Way::Patches { base, steps }),
        None => Search::Found(Way::Archive),
    }
}

/// The cheapest way to an announced release from what the cache holds. Reads announcements in between where a chain of
/// patches may be worth it; what cannot be read is no way.
pub(crate) async fn cheapest_way(store: &ReleaseStore, cache: &Cache, wanted: &Published) -> Way {
    if wanted.deltas.is_empty() {
        return Way::Archive;
    }
    let held = cache.clone();
    let here = spawn_blocking(move || stored_releases(&held)).await;
    let here: BTreeSet<Tag> = match here {
        Ok(Ok(releases)) => releases.into_iter().map(|(tag, _)| tag).collect(),
        Ok(Err(_)) | Err(_) => BTreeSet::new(),
    };
    if here.is_empty() {
        return Way::Archive;
    }
    let log = EventLog::new(store.connection().clone());
    let (mut known, mut missing) = (BTreeMap::new(), BTreeSet::new());
    loop {
        match search(wanted, &here, &known, &missing) {
            Search::Found(way) => return way,
            Search::Unknown(tags) => {
                read_announcements(&log, wanted, &tags, &mut known).await;
                missing.extend(tags);
            }
        }
    }
}

/// Reads the announcements of these tags in one request.
async fn read_announcements(
    log: &EventLog,
    wanted: &Published,
    tags: &BTreeSet<Tag>,
    known: &mut BTreeMap<Tag, Published>,
) {
    let subject = |tag| EventSubject::release_announcement(&wanted.bundle, tag).to_string();
    let subjects: Vec<String> = tags.iter().map(subject).collect();
    match log.last_of(&subjects).await {
        Ok(snapshot) => {
            for event in snapshot.events {
                // What is no valid announcement is no way.
                let Ok((_, envelope)) = event.envelope() else { continue };
                if let BundleEvent::Published(published) = envelope.event {
                    known.insert(published.tag.clone(), published);
                }
            }
        }
        Err(error) => {
            tracing::debug!(error = %ErrorChain(&error), "announcements in between cannot be read");
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::digest::Sha256Digest;
    use shared::event::{DeltaReference, Trigger};

    use super::*;

    fn object(name: &str, size: u64) -> ObjectReference {
        ObjectReference { name: name.to_owned(), size, sha256: Sha256Digest::of(name.as_bytes()) }
    }

    /// A release of which archive and `release.json` have 1,000 bytes.
    fn release(tag: &str, deltas: &[(&str, u64)]) -> Published {
        let delta = |(base, size): &(&str, u64)| DeltaReference {
            base_tag: base.parse().unwrap(),
            object: object(&format!("{tag} from {base}"), *size),
        };
        Published {
            bundle: "contracts".parse().unwrap(),
            tag: tag.parse().unwrap(),
            tree_digest: Sha256Digest::of(tag.as_bytes()),
            content_digest: Sha256Digest::of(tag.as_bytes()),
            files: 1,
            total_bytes: 1,
            archive: object("archive", 900),
            release: object("release", 100),
            deltas: deltas.iter().map(delta).collect(),
            git: None,
            trigger: Trigger::Local,
            actor: "main".parse().unwrap(),
        }
    }

    fn tags(tags: &[&str]) -> BTreeSet<Tag> {
        tags.iter().map(|tag| tag.parse().unwrap()).collect()
    }

    fn way(wanted: &Published, here: &[&str], known: &[Published], missing: &[&str]) -> String {
        let known = known.iter().map(|release| (release.tag.clone(), release.clone())).collect();
        match search(wanted, &tags(here), &known, &tags(missing)) {
            Search::Found(Way::Archive) => "archive".to_owned(),
            Search::Found(Way::Patches { base, steps }) => {
                let steps: Vec<&str> = steps.iter().map(|step| step.delta.name.as_str()).collect();
                format!("{base}: {}", steps.join(", "))
            }
            Search::Unknown(tags) => {
                format!("read {}", tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn a_patch_of_what_is_here_is_taken_where_it_is_smaller() {
        let wanted = release("v5", &[("v4", 10), ("v3", 20)]);
        assert_eq!(way(&wanted, &["v4"], &[], &["v3"]), "v4: v5 from v4");
        assert_eq!(way(&wanted, &["v3", "v4"], &[], &[]), "v4: v5 from v4");
        assert_eq!(way(&wanted, &["v3"], &[], &["v4"]), "v3: v5 from v3");
        assert_eq!(way(&wanted, &["v1"], &[], &["v3", "v4"]), "archive");
        assert_eq!(way(&wanted, &[], &[], &["v3", "v4"]), "archive");
        assert_eq!(way(&release("v5", &[("v4", 1000)]), &["v4"], &[], &[]), "archive");
        assert_eq!(way(&release("v5", &[("v4", 999)]), &["v4"], &[], &[]), "v4: v5 from v4");
        assert_eq!(way(&release("v5", &[]), &["v4"], &[], &[]), "archive");
    }

    #[test]
    fn a_wanted_release_that_is_here_is_no_base_of_itself() {
        let wanted = release("v5", &[("v5", 1)]);
        assert_eq!(way(&wanted, &["v5"], &[], &[]), "archive");
    }

    #[test]
    fn chains_are_followed_as_far_as_they_may_be_cheaper() {
        let wanted = release("v5", &[("v4", 10)]);
        assert_eq!(way(&wanted, &["v2"], &[], &[]), "read v4");
        let v4 = release("v4", &[("v3", 100), ("v2", 980)]);
        assert_eq!(way(&wanted, &["v2"], std::slice::from_ref(&v4), &[]), "read v3");
        let v3 = release("v3", &[("v2", 5)]);
        let known = [v4, v3];
        assert_eq!(way(&wanted, &["v2"], &known, &[]), "v2: v3 from v2, v4 from v3, v5 from v4");
        assert_eq!(way(&wanted, &["v2", "v3"], &known, &[]), "v3: v4 from v3, v5 from v4");
        let dear = [release("v4", &[("v3", 500)]), release("v3", &[("v2", 500)])];
        assert_eq!(way(&wanted, &["v2"], &dear, &[]), "archive", "all patches together are what counts");
    }

    #[test]
    fn of_two_chains_the_cheaper_one_is_taken_however_long() {
        let wanted = release("v5", &[("v4", 10), ("v1", 300)]);
        let known = [release("v4", &[("v3", 10)]), release("v3", &[("v1", 10)])];
        assert_eq!(way(&wanted, &["v1"], &known, &[]), "v1: v3 from v1, v4 from v3, v5 from v4");
        let known = [release("v4", &[("v3", 10)]), release("v3", &[("v1", 290)])];
        assert_eq!(way(&wanted, &["v1"], &known, &[]), "v1: v5 from v1");
    }

    #[test]
    fn circles_and_endless_chains_end() {
        let wanted = release("v9", &[("v8", 1)]);
        let circle = [release("v8", &[("v7", 1)]), release("v7", &[("v8", 1), ("v9", 1)])];
        assert_eq!(way(&wanted, &["v1"], &circle, &[]), "archive");
        let chain: Vec<Published> =
            (2..9).map(|number| release(&format!("v{number}"), &[(&format!("v{}", number - 1), 1)])).collect();
        assert_eq!(way(&wanted, &["v1"], &chain, &[]), "archive", "longer than the longest chain");
        assert!(way(&wanted, &["v3"], &chain, &[]).starts_with("v3: v4 from v3"));
    }
}
