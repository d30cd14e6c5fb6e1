use proptest::prelude::*;

use super::*;
use crate::event::FallbackActivated;
use crate::fleet_history::sample_events::{
    any_message, download_failed, fallback, loaded, minute, of_unknown_type, promoted, published, reverted, stored,
    stored_at, withdrawn,
};

fn fold_into(timeline: &mut FleetTimeline, messages: &[(String, Vec<u8>)]) {
    for (number, (subject, payload)) in messages.iter().enumerate() {
        let sequence = number as u64 + 1;
        timeline.apply(StoredMessage {
            stream_sequence: sequence,
            stored_at: minute(i64::try_from(sequence).unwrap()),
            subject,
            payload,
        });
    }
}

fn fold(messages: &[(String, Vec<u8>)]) -> FleetTimeline {
    let mut timeline = FleetTimeline::default();
    fold_into(&mut timeline, messages);
    timeline
}

fn contracts() -> BundleName {
    "contracts".parse().unwrap()
}

fn edge(timeline: &FleetTimeline) -> &NodeTimeline {
    &timeline.nodes[&("edge-1".parse().unwrap(), contracts())]
}

fn story() -> Vec<(String, Vec<u8>)> {
    vec![
        stored("/publishers/main", published("v1")),
        stored("/publishers/main", promoted("latest", "v1")),
        stored_at("/nodes/edge-1", loaded("v1"), 3),
        stored("/operators/ada", promoted("latest", "v2")),
        stored_at("/nodes/edge-1", download_failed("v2"), 5),
        stored_at("/nodes/edge-1", loaded("v2"), 9),
        stored("/operators/ada", withdrawn("v2")),
    ]
}

#[test]
fn every_move_and_switch_is_kept_with_both_clocks() {
    let timeline = fold(&story());
    let moves = &timeline.moves[&(contracts(), "latest".parse().unwrap())];
    let told: Vec<_> = moves.iter().map(|step| (step.promoted.tag.as_str(), step.moment.stream_sequence)).collect();
    assert_eq!(told, [("v1", 2), ("v2", 4)]);
    let active = edge(&timeline).active().unwrap();
    assert_eq!((active.moment.stored_at, active.moment.happened_at), (minute(6), minute(9)));
    assert_eq!(timeline.promotion_behind(active).unwrap().moment.stream_sequence, 4);
    let withdrawal = timeline.withdrawal_of(Sha256Digest::of(b"v2")).unwrap();
    assert_eq!((withdrawal.withdrawn.reason.as_str(), withdrawal.moment.stream_sequence), ("broken", 7));
}

#[test]
fn a_node_that_went_back_keeps_failing_until_it_switches_by_choice() {
    let mut messages = vec![
        stored("/nodes/edge-1", loaded("v1")),
        stored("/nodes/edge-1", loaded("v2")),
        stored("/nodes/edge-1", reverted("v2", Some("v1"))),
    ];
    let timeline = fold(&messages);
    let way = edge(&timeline);
    assert_eq!(way.active().unwrap().loaded.tag.as_str(), "v1");
    let failing = way.failing().unwrap();
    assert_eq!((failing.tag.as_str(), failing.running_tag.as_ref().unwrap().as_str()), ("v2", "v1"));
    messages.push(stored("/nodes/edge-1", loaded("v3")));
    assert!(edge(&fold(&messages)).failing().is_none());
}

#[test]
fn the_promotion_behind_a_switch_is_the_one_that_brought_the_release() {
    let timeline = fold(&[
        stored("/operators/ada", promoted("latest", "v1")),
        stored("/operators/ada", promoted("latest", "v2")),
        stored("/operators/ada", promoted("latest", "v1")),
        // As a freeze does.
        stored("/operators/ada", promoted("latest", "v1")),
        stored("/operators/ada", promoted("production", "v1")),
        stored("/operators/ada", promoted("latest", "v2")),
        stored("/nodes/edge-1", loaded("v1")),
        stored("/operators/ada", promoted("latest", "v1")),
    ]);
    let active = edge(&timeline).active().unwrap();
    assert_eq!(timeline.promotion_behind(active).unwrap().moment.stream_sequence, 3);
}

#[test]
fn a_failure_counts_until_the_next_switch_and_is_remembered_after_it() {
    let story = story();
    let before = fold(&story[..5]);
    assert_eq!(edge(&before).failing().unwrap().tag.as_str(), "v2");
    let after = fold(&story);
    assert_eq!(edge(&after).failing(), None);
    assert_eq!(edge(&after).last_failure.as_ref().unwrap().moment.stream_sequence, 5);
}

#[test]
fn adoption_names_each_span_of_each_node() {
    let mut story = story();
    story.push(stored_at("/nodes/edge-2", loaded("v1"), 20));
    let timeline = fold(&story);
    let spans: Vec<_> = timeline.adoptions()[&(contracts(), "v1".parse().unwrap())]
        .iter()
        .map(|span| (span.node.to_string(), span.since.stream_sequence, span.until.map(|until| until.stream_sequence)))
        .collect();
    assert_eq!(spans, [("edge-1".to_owned(), 3, Some(6)), ("edge-2".to_owned(), 8, None)]);
}

#[test]
fn a_late_report_belongs_to_the_time_it_tells_of() {
    let mut timeline = FleetTimeline::as_it_happened_by(minute(4));
    fold_into(&mut timeline, &story());
    assert_eq!(edge(&timeline).active().unwrap().loaded.tag.as_str(), "v1");
    assert_eq!(timeline.left_out, 2);
    assert_eq!(timeline.state.last_sequence, 7);
}

#[test]
fn unknown_types_are_kept_and_counted() {
    let timeline = fold(&[of_unknown_type("v1"), of_unknown_type("v2")]);
    assert_eq!(timeline.state.unknown["bundle.approved"], 2);
    assert!(timeline.moves.is_empty() && timeline.state.oddities.is_empty());
}

proptest! {
    #[test]
    fn replaying_twice_equals_once(messages in proptest::collection::vec(any_message(), 0..30)) {
        let once = fold(&messages);
        let mut twice = once.clone();
        fold_into(&mut twice, &messages);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn any_order_of_any_sequences_and_times_is_folded(messages in proptest::collection::vec((any_message(), any::<u64>(), -9_i64..9), 0..30)) {
        let mut timeline = FleetTimeline::default();
        for ((subject, payload), stream_sequence, stored) in &messages {
            timeline.apply(StoredMessage { stream_sequence: *stream_sequence, stored_at: minute(*stored), subject, payload });
        }
        let highest = messages.iter().map(|(_, sequence, _)| *sequence).max().unwrap_or(0);
        prop_assert_eq!(timeline.state.last_sequence, highest);
    }

    #[test]
    fn the_heads_are_the_ends_of_the_ways(messages in proptest::collection::vec(any_message(), 0..40)) {
        let timeline = fold(&messages);
        let mut heads = FleetHistory::default();
        for (number, (subject, payload)) in messages.iter().enumerate() {
            let sequence = number as u64 + 1;
            let stored_at = minute(i64::try_from(sequence).unwrap());
            heads.apply(StoredMessage { stream_sequence: sequence, stored_at, subject, payload });
        }
        prop_assert_eq!(&timeline.state, &heads);
        for (key, channel) in &heads.channels {
            let moves = &timeline.moves[key];
            prop_assert_eq!(&moves.last().unwrap().promoted, &channel.head);
            prop_assert_eq!(moves.len() as u64, channel.moves);
        }
        for (key, node) in &heads.nodes {
            let way = &timeline.nodes[key];
            prop_assert_eq!(way.active().map(|active| &active.loaded), node.active.as_ref().map(|(loaded, _)| loaded));
            prop_assert_eq!(way.failing().map(|failing| &failing.tag), node.failure.as_ref().map(|(tag, _)| tag));
            prop_assert_eq!(way.staged.as_ref().map(|staged| &staged.tag), node.staged.as_ref());
            prop_assert_eq!(way.last_word.stream_sequence, node.stream_sequence);
        }
    }

    #[test]
    fn nothing_is_dropped_silently(messages in proptest::collection::vec(any_message(), 0..30), limit in 0_i64..9) {
        let mut timeline = FleetTimeline::as_it_happened_by(minute(limit));
        fold_into(&mut timeline, &messages);
        let readable = messages.iter().filter_map(|(subject, payload)| read(subject, payload).ok());
        let (kept, later): (Vec<_>, Vec<_>) = readable.partition(|envelope| envelope.time <= minute(limit));
        prop_assert_eq!(later.len() as u64, timeline.left_out);
        prop_assert_eq!(kept.len() + later.len() + timeline.state.oddities.len(), messages.len());
    }
}

/// What a node can go through, as its agent tells it.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Switch(u8),
    /// Its health check fails, and it returns to a release or, with nothing to return to, stays.
    Revert(Option<u8>),
    /// The same, back to the agent's own schemas: told as a revert, then as a fallback, of one switch.
    RevertToEmbedded,
    /// Nothing can be had.
    Embed,
    /// Something else that cannot be had is wanted.
    WantAnother,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        (0_u8..4).prop_map(Turn::Switch),
        proptest::option::of(0_u8..4).prop_map(Turn::Revert),
        Just(Turn::RevertToEmbedded),
        Just(Turn::Embed),
        Just(Turn::WantAnother),
    ]
}

/// A node and what it has told so far.
#[derive(Debug, Default)]
struct Story {
    epoch: u64,
    runs: String,
    events: Vec<BundleEvent>,
}

impl Story {
    fn falls_back(&mut self) {
        let source = if self.runs == "built-in" { FallbackSource::Embedded } else { FallbackSource::LastGood };
        let BundleEvent::FallbackActivated(told) = fallback(source, &self.runs) else { return };
        self.events.push(FallbackActivated { activation_epoch: self.epoch, ..told }.into());
    }

    fn reverts(&mut self, restored: Option<&str>) {
        let BundleEvent::Reverted(told) = reverted(&self.runs, restored) else { return };
        let failed_epoch = self.epoch;
        if let Some(restored) = restored {
            self.epoch += 1;
            restored.clone_into(&mut self.runs);
        }
        self.events.push(Reverted { failed_epoch, activation_epoch: self.epoch, ..told }.into());
    }

    fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Switch(number) => {
                self.epoch += 1;
                self.runs = format!("v{number}");
                let BundleEvent::Loaded(told) = loaded(&self.runs) else { return };
                self.events.push(Loaded { activation_epoch: self.epoch, ..told }.into());
            }
            Turn::Embed => {
                self.epoch += 1;
                "built-in".clone_into(&mut self.runs);
                self.falls_back();
            }
            // Nothing runs yet.
            Turn::Revert(_) | Turn::RevertToEmbedded | Turn::WantAnother if self.epoch == 0 => {}
            Turn::Revert(number) => self.reverts(number.map(|number| format!("v{number}")).as_deref()),
            Turn::RevertToEmbedded => {
                self.reverts(Some("built-in"));
                self.falls_back();
            }
            Turn::WantAnother => self.falls_back(),
        }
    }
}

proptest! {
    /// Whatever a node goes through, its timeline holds each switch once, and both folds agree on what runs.
    #[test]
    fn each_switch_is_one_activation(turns in proptest::collection::vec(turn(), 1..30)) {
        let mut story = Story::default();
        for turn in turns {
            story.take(turn);
        }
        prop_assume!(story.epoch > 0);
        let messages: Vec<_> = story.events.into_iter().map(|event| stored("/nodes/edge-1", event)).collect();
        let timeline = fold(&messages);
        let way = edge(&timeline);
        let epochs: Vec<u64> = way.activations.iter().map(|activation| activation.loaded.activation_epoch).collect();
        prop_assert_eq!(epochs, (1..=story.epoch).collect::<Vec<_>>());
        prop_assert_eq!(way.active().unwrap().loaded.tag.as_str(), &story.runs);
        let head = &timeline.state.nodes[&("edge-1".parse().unwrap(), contracts())];
        prop_assert_eq!(&head.active.as_ref().unwrap().0, &way.active().unwrap().loaded);
        prop_assert_eq!((head.fallback, head.tampered), (way.fallback, way.tampered));
    }
}
