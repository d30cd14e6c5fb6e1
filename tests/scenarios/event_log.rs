//! Appending to the log: one of two wins, nothing is stored twice, and a server that dies loses nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use acceptance::handmade_release::{contracts_files, draft, promoted, release_of};
use acceptance::stored_log::{EVENT_STREAM, StoredMessage, checked_chains, event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::World;
use async_nats::HeaderMap;
use shared::event::{BundleEvent, FetchStrategy, RefreshAttempt};
use shared::event_chain::{EventChain, SealedEvent};
use shared::identifiers::{ActorName, Incarnation};
use shared::source::Source;
use shared::subjects::{EVENT_SUBJECTS, EventSubject};
use streams::connection::Connection;
use streams::event_log::{AppendError, EventLog, Expectation};
use streams::event_writer::{EventWriter, WriteError};
use streams::outbox::Outbox;
use tokio_util::sync::CancellationToken;

fn promotion(actor: &str, tag: &str) -> BundleEvent {
    let release = release_of("contracts", tag, &contracts_files(tag));
    let mut promoted = promoted(&release, &"latest".parse().expect("a channel"));
    promoted.actor = actor.parse::<ActorName>().expect("an actor");
    promoted.into()
}

fn attempt(tag: &str) -> BundleEvent {
    let release = release_of("contracts", tag, &contracts_files("any"));
    RefreshAttempt {
        bundle: release.bundle().clone(),
        tag: release.tag().clone(),
        tree_digest: release.tree_digest(),
        base_tag: None,
        strategy: FetchStrategy::Archive,
    }
    .into()
}

fn operator(name: &str) -> Source {
    format!("/operators/{name}").parse().expect("a source")
}

fn sealed(name: &str, event: BundleEvent) -> SealedEvent {
    let incarnation: Incarnation = "0193b1c27e1f4a558c110242ac120002".parse().expect("an incarnation");
    EventChain::new(incarnation, None).seal(&operator(name), &draft(event)).expect("a valid event")
}

async fn log_of(world: &World) -> Vec<StoredMessage> {
    event_log(&world.raw_operator().await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_promotions_at_once_exactly_one_wins_and_the_other_learns_who() {
    let world = World::start(&[]).await;
    for round in 0..20 {
        let before = log_of(&world).await.iter().filter(|message| message.event_type() == "bundle.promoted").count();
        let head =
            EventSubject::channel_head(&"contracts".parse().expect("a bundle"), &"latest".parse().expect("a channel"));
        let last = world.log().await.last(&head, streams::event_log::Reader::Leader).await.expect("readable");
        let expected = Expectation::OnOwnSubject(last.map_or(0, |last| last.stream_sequence));
        let promote = async |name: &str| {
            let log = world.log().await;
            let event = draft(promotion(name, &format!("{name}-{round}")));
            EventWriter::in_memory(operator(name)).append(&log, &event, expected.clone(), PATIENCE).await
        };
        let (ada, bob) = tokio::join!(promote("ada"), promote("bob"));
        let (winner, loser) = match (ada, bob) {
            (Ok(_), Err(error)) => ("ada", error),
            (Err(error), Ok(_)) => ("bob", error),
            (Ok(_), Ok(_)) => panic!("both won"),
            (Err(one), Err(other)) => panic!("nobody won: {one}, {other}"),
        };
        let WriteError::Append(AppendError::Conflict { last: Some(last), .. }) = loser else { panic!("{loser}") };
        let (_, envelope) = last.envelope().expect("a valid event");
        assert_eq!(envelope.source, operator(winner), "the loser learns who won");
        let after = log_of(&world).await.iter().filter(|message| message.event_type() == "bundle.promoted").count();
        assert_eq!(after, before + 1);
    }
}

#[tokio::test]
async fn the_same_event_sent_again_is_no_second_event() {
    let world = World::start(&[]).await;
    let log = world.log().await;
    let event = sealed("ada", promotion("ada", "once"));
    let expected = Expectation::OnOwnSubject(0);
    let first = log.append(&event, &expected, PATIENCE).await.expect("stored");
    assert!(!first.already_there);
    // The acknowledgement was lost: the same bytes are sent again, under the expectation they were first sent under.
    for _ in 0..3 {
        let again = log.append(&event, &expected, PATIENCE).await.expect("found");
        assert_eq!((again.stream_sequence, again.already_there), (first.stream_sequence, true));
    }
    // Somebody else has moved the channel since: the event is still found, and not taken for a conflict.
    let next = sealed("bob", promotion("bob", "next"));
    log.append(&next, &Expectation::OnOwnSubject(first.stream_sequence), PATIENCE).await.expect("stored");
    let again = log.append(&event, &expected, PATIENCE).await.expect("found");
    assert_eq!(again.stream_sequence, first.stream_sequence);
    assert_eq!(world.raw_operator().await.stream_state(EVENT_STREAM).await.last_sequence, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_to_a_server_that_hangs_is_unknown_at_first_and_settled_later() {
    let world = World::start(&[]).await;
    let log = world.log().await;
    let mut writer = EventWriter::in_memory(operator("ada"));
    let paused = world.server.pause();
    let event = draft(promotion("ada", "late"));
    let error = writer
        .append(&log, &event, Expectation::OnOwnSubject(0), Duration::from_secs(3))
        .await
        .expect_err("nobody answers");
    assert!(matches!(error, WriteError::Append(AppendError::Unknown { .. })), "{error}");
    assert_eq!(writer.in_flight(), Some(event.id), "nothing else is numbered meanwhile");
    drop(paused);
    let settled = writer.resume(&log, PATIENCE).await.expect("settled").expect("an event was in flight");
    let next = draft(promotion("ada", "next"));
    writer
        .append(&log, &next, Expectation::OnOwnSubject(settled.stream_sequence), PATIENCE)
        .await
        .expect("the chain goes on");
    let log = log_of(&world).await;
    let promoted = log.iter().filter(|message| message.event_type() == "bundle.promoted").count();
    assert_eq!(promoted, 2, "neither lost nor doubled");
    checked_chains(&log);
}

/// An outbox in a directory, with its task running.
struct RunningOutbox {
    outbox: Outbox,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl RunningOutbox {
    fn start(world: &World, node: &str, directory: &str, connection: &Connection) -> Self {
        let directory = world.subdirectory(directory);
        let outbox = Outbox::open(&directory, node.parse().expect("a node")).expect("the outbox opens");
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (outbox, log, stop) = (outbox.clone(), EventLog::new(connection.clone()), stop.clone());
            async move { outbox.run(&log, stop).await }
        });
        Self { outbox, stop, task }
    }

    async fn record(&self, tags: impl IntoIterator<Item = String>) {
        for tag in tags {
            self.outbox.record(draft(attempt(&tag))).await.expect("recorded");
        }
    }

    async fn emptied(&self) {
        let status = self.outbox.status();
        assert!(self.outbox.wait_until_empty(PATIENCE).await, "{:?}", status.borrow());
    }

    /// Stops as a process does that is told to, wherever it is.
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the task does not panic");
    }
}

/// The tags that a node's events name, in stream order.
fn tags_of(log: &[StoredMessage], node: &str) -> Vec<String> {
    let of_node = of_node(log, "bundle.refresh_attempt", node);
    of_node.iter().map(|message| message.data()["tag"].as_str().expect("a tag").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_loses_and_doubles_nothing_when_the_server_is_killed_again_and_again() {
    let mut world = World::with_reserved_port(&["n1"]).await;
    let connection = world.node("n1").await;
    let mut running = RunningOutbox::start(&world, "n1", "outbox", &connection);
    let mut recorded = Vec::new();
    for round in 0..4 {
        let tags: Vec<String> = (0..25).map(|number| format!("r{round}-{number:02}")).collect();
        recorded.extend(tags.clone());
        let (first, second) = tags.split_at(12);
        running.record(first.to_vec()).await;
        world.server.kill().await;
        running.record(second.to_vec()).await;
        if round % 2 == 1 {
            // The node restarts too, with an event in flight and others waiting.
            running.stop().await;
            running = RunningOutbox::start(&world, "n1", "outbox", &connection);
        }
        world.server.start_again().await;
        running.emptied().await;
    }
    let log = log_of(&world).await;
    assert_eq!(tags_of(&log, "n1"), recorded, "every event once, in the order of recording");
    let chains = checked_chains(&log);
    let of_node: Vec<_> = chains.iter().filter(|((source, _), _)| source == "/nodes/n1").collect();
    assert_eq!(of_node.len(), 1);
    assert_eq!(*of_node[0].1, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_under_one_name_both_keep_their_chains_and_notice_each_other() {
    let world = World::start(&["n1"]).await;
    let (first, second) = (world.node("n1").await, world.node("n1").await);
    let one = RunningOutbox::start(&world, "n1", "one", &first);
    let two = RunningOutbox::start(&world, "n1", "two", &second);
    let tags = |name: &str| (0..20).map(|number| format!("{name}-{number:02}")).collect::<Vec<_>>();
    tokio::join!(one.record(tags("one")), two.record(tags("two")));
    one.emptied().await;
    two.emptied().await;
    eventually("a rival to be noticed", PATIENCE, async || {
        let noticed = [&one, &two].map(|running| running.outbox.status().borrow().rivals_noticed);
        satisfied(noticed.iter().any(|count| *count > 0), || format!("noticed {noticed:?} times"))
    })
    .await;
    let log = log_of(&world).await;
    let stored: BTreeSet<String> = tags_of(&log, "n1").into_iter().collect();
    assert_eq!(stored, tags("one").into_iter().chain(tags("two")).collect());
    assert_eq!(tags_of(&log, "n1").len(), 40, "none twice");
    assert_eq!(checked_chains(&log).keys().filter(|(source, _)| source == "/nodes/n1").count(), 2);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_replay_stays_on_its_consumer_to_the_end_and_leaves_none_behind() {
    const EVENTS: u64 = 9_001;
    let world = World::start(&[]).await;
    let (log, operator) = (world.log().await, world.raw_operator().await);
    let before = log.state().await.expect("the log says how long it is").last_sequence;
    let stored = async |number: u64| {
        let (subject, mut headers) = (format!("bundle.loaded.contracts.node.n{}", number % 7), HeaderMap::new());
        headers.insert("Nats-Msg-Id", format!("id-{number}"));
        let payload = vec![b'x'; 700];
        if number.is_multiple_of(1000) || number == EVENTS {
            // The stream takes one connection's messages in order: with this one it has all before it.
            operator.store(&subject, headers, payload).await;
        } else {
            operator.send(&subject, None, headers, payload).await;
        }
    };
    for number in 1..=EVENTS {
        stored(number).await;
    }
    let last = log.state().await.expect("the log says how long it is").last_sequence;
    assert_eq!(last, before + EVENTS);
    let mut next = 1;
    let mut pages = log.replay(EVENT_SUBJECTS, 1, last);
    while let Some(page) = pages.next_page().await.expect("the log can be read") {
        assert!(pages.reads_by_consumer(), "given up before event {next}");
        for event in page {
            assert_eq!(event.stream_sequence, next, "nothing is missed or doubled");
            next += 1;
        }
    }
    assert_eq!(next, last + 1);
    // The ids too, to an end in the middle of a page, and a change of mind on the way.
    let mut pages = log.replay(EVENT_SUBJECTS, before + 1, before + 4500);
    let first = pages.next_page().await.expect("the log can be read").expect("a page");
    let mut number = first.len() as u64;
    while let Some(page) = pages.next_page_with_ids().await.expect("the log can be read") {
        assert!(pages.reads_by_consumer(), "given up before event {number}");
        for with_id in page {
            number += 1;
            assert_eq!(with_id.event.stream_sequence, before + number);
            assert_eq!(with_id.message_id, Some(format!("id-{number}")));
        }
    }
    assert_eq!(number, 4500);
    drop(pages);
    eventually("the consumers to be gone", PATIENCE, async || {
        let state = operator.stream_state(EVENT_STREAM).await;
        satisfied(state.consumers == 0, || format!("{} consumers", state.consumers))
    })
    .await;
}
