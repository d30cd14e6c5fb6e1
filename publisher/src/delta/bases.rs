//! From which releases deltas are wanted: what nodes run, by the node table, and what channels point at.

use std::collections::BTreeMap;

use serde::Deserialize;
use shared::daemon::ErrorChain;
use shared::event::{BundleEvent, Published};
use shared::identifiers::{BundleName, Tag};
use shared::subjects::channel_heads_filter;
use streams::event_log::EventLog;
use streams::node_table::NodeTable;

use crate::release_register::ReleaseRegister;

/// Most deltas of a release: each is named in its announcement, which has a limit.
pub const MOST_DELTAS: u32 = 16;

/// What nodes have, and what they are meant to have.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Demand {
    /// How many nodes run which release.
    pub(super) running: BTreeMap<Tag, u64>,
    /// What channels point at.
    pub(super) heads: Vec<Tag>,
}

/// Reads it. What cannot be read is logged and counts as nothing: it only decides how cheaply nodes get a release.
pub(super) async fn demand(log: &EventLog, bundle: &BundleName) -> Demand {
    let mut demand = Demand::default();
    match NodeTable::new(log.connection().clone()).list().await {
        Ok(entries) => {
            for tag in entries.iter().flat_map(|entry| running(&entry.value, bundle)) {
                *demand.running.entry(tag).or_default() += 1;
            }
        }
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "deltas are built without knowing what nodes run");
        }
    }
    match log.last_of(&[channel_heads_filter(bundle)]).await {
        Ok(snapshot) => {
            let heads = snapshot.events.iter().rev().filter_map(|event| {
                let BundleEvent::Promoted(promoted) = event.envelope().ok()?.1.event else { return None };
                Some(promoted.tag)
            });
            demand.heads = heads.collect();
        }
        Err(error) => {
            tracing::warn!(error = %ErrorChain(&error), "deltas are built without knowing what channels point at");
        }
    }
    demand
}

/// The releases of a bundle that a node's entry says it runs, whether it tells of one bundle or of several. What says
/// something else runs nothing that is known.
fn running(entry: &[u8], bundle: &BundleName) -> Vec<Tag> {
    #[derive(Deserialize)]
    struct Active {
        tag: Tag,
    }
    #[derive(Deserialize)]
    struct Running {
        bundle: BundleName,
        active: Option<Active>,
    }
    #[derive(Deserialize)]
    struct Several {
        bundles: Vec<Running>,
    }
    let several = serde_json::from_slice(entry).map(|Several { bundles }| bundles);
    let told = several.or_else(|_| serde_json::from_slice(entry).map(|one| vec![one])).unwrap_or_default();
    told.into_iter().filter(|told| &told.bundle == bundle).filter_map(|told| Some(told.active?.tag)).collect()
}

/// The releases that deltas to `tag` are wanted from, at most `count`. First the newest release before, so that who is
/// several releases behind finds a chain; then what most nodes run; then what channels point at. Withdrawn releases
/// too: nodes leave them.
pub(super) fn bases<'a>(register: &'a ReleaseRegister, tag: &Tag, demand: &Demand, count: u32) -> Vec<&'a Published> {
    let mut by_nodes: Vec<(&Tag, u64)> = demand.running.iter().map(|(tag, nodes)| (tag, *nodes)).collect();
    by_nodes.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
    let newest = register.newest_but(tag).map(|release| &release.tag);
    let wanted = newest.into_iter().chain(by_nodes.into_iter().map(|(tag, _)| tag)).chain(&demand.heads);
    let mut bases: Vec<&Published> = Vec::new();
    for found in wanted.filter_map(|tag| register.find(tag)).map(|(release, _)| release) {
        if &found.tag != tag && !bases.iter().any(|base| base.tag == found.tag) {
            bases.push(found);
        }
    }
    bases.truncate(count.min(MOST_DELTAS) as usize);
    bases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_releases::published;

    fn chosen(running: &[(&str, u64)], heads: &[&str], tag: &str, count: u32) -> Vec<String> {
        let releases = ["v1", "v2", "v3", "v4"].map(|tag| published(tag, tag));
        let register = ReleaseRegister::of(releases, None);
        let demand = Demand {
            running: running.iter().map(|(tag, nodes)| (tag.parse().unwrap(), *nodes)).collect(),
            heads: heads.iter().map(|tag| tag.parse().unwrap()).collect(),
        };
        let bases = bases(&register, &tag.parse().unwrap(), &demand, count);
        bases.iter().map(|release| release.tag.to_string()).collect()
    }

    #[test]
    fn bases_are_what_the_fleet_runs_behind_the_newest() {
        assert_eq!(chosen(&[], &[], "v5", 3), ["v4"]);
        assert_eq!(chosen(&[("v1", 5), ("v2", 40)], &["v3"], "v5", 4), ["v4", "v2", "v1", "v3"]);
        assert_eq!(chosen(&[("v1", 5), ("v2", 40)], &["v3"], "v5", 2), ["v4", "v2"]);
        assert_eq!(chosen(&[("v4", 5), ("v5", 2)], &["v4", "v5"], "v5", 3), ["v4"], "once, and not itself");
        assert_eq!(chosen(&[("elsewhere", 5)], &[], "v4", 3), ["v3"], "only what was published");
        assert!(chosen(&[("v1", 5)], &["v2"], "v5", 0).is_empty());
    }

    #[test]
    fn entries_tell_of_one_bundle_or_of_several() {
        let bundle: BundleName = "contracts".parse().unwrap();
        for (entry, expected) in [
            (r#"{"node":"edge-1","bundle":"contracts","active":{"tag":"v1","tree_digest":"x"}}"#, &["v1"][..]),
            (r#"{"node":"edge-1","bundle":"policies","active":{"tag":"v1"}}"#, &[]),
            (r#"{"node":"edge-1","bundle":"contracts"}"#, &[]),
            (
                r#"{"bundles":[{"bundle":"policies","active":{"tag":"v9"}},{"bundle":"contracts","active":{"tag":"v2"}}]}"#,
                &["v2"],
            ),
            ("[]", &[]),
            ("", &[]),
        ] {
            let tags: Vec<String> = running(entry.as_bytes(), &bundle).iter().map(ToString::to_string).collect();
            assert_eq!(tags, expected, "{entry}");
        }
    }
}
