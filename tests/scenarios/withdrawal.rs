//! Withdrawing releases, with the real programs: no channel points at one afterwards, and no node runs it again.

use std::process::Command;

use acceptance::agent::{Agent, AgentDirectories};
use acceptance::handmade_release::draft;
use acceptance::operations::{
    head_of, moves_of, operate, operated, operated_json, operator_command, publish_command, publish_contracts, refused,
    text_of,
};
use acceptance::sample_trees::{change_one_contract, contracts};
use acceptance::stored_log::{EVENT_STREAM, RELEASE_STREAM, StoredMessage, event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished};
use serde_json::{Value, json};
use shared::event::{Promoted, Withdrawn};
use shared::source::Source;
use streams::event_log::Expectation;
use streams::event_writer::EventWriter;

/// Publishes these releases one after another; channel `latest` follows.
async fn published(world: &World, tags: &[&str]) {
    let source = contracts(world.directory());
    for tag in tags {
        publish_contracts(world, &source, tag).await;
    }
}

async fn withdrawals(world: &World) -> Vec<StoredMessage> {
    let log = event_log(&world.raw_operator().await).await;
    log.into_iter().filter(|message| message.event_type() == "bundle.withdrawn").collect()
}

const WITHDRAW_C: [&str; 6] = ["release", "withdraw", "c", "--reason", "leaks a key", "--yes"];

#[tokio::test]
async fn a_withdrawal_moves_every_channel_that_points_at_the_release_and_is_written_once() {
    let world = World::start(&[]).await;
    published(&world, &["a", "b", "c"]).await;
    for (channel, tags) in [("beta", &["a", "c"][..]), ("old", &["a"]), ("canary", &["c"])] {
        for tag in tags {
            operated(&world, &["channel", "promote", channel, tag]).await;
        }
    }
    operated(&world, &["channel", "freeze", "beta"]).await;

    let operator = world.raw_operator().await;
    let before = (operator.stream_state(EVENT_STREAM).await, operator.stream_state(RELEASE_STREAM).await);
    let foretold = operated(&world, &[&WITHDRAW_C[..], &["--dry-run"]].concat()).await;
    let after = (operator.stream_state(EVENT_STREAM).await, operator.stream_state(RELEASE_STREAM).await);
    assert_eq!(before, after, "a dry run wrote");
    let stays = "canary: stays at c: it never pointed at a release that may run; its nodes keep their last good one, \
                 or run on where they have none";
    let prediction =
        format!("dry run: release c of contracts would be withdrawn\nbeta: c → a\n{stays}\nlatest: c → b\n");
    assert_eq!(foretold, prediction);

    let said = operated(&world, &WITHDRAW_C).await;
    let expected = format!(
        "release c of contracts is withdrawn\nbeta: c → a (withdraw, frozen)\n{stays}\nlatest: c → b (withdraw, held)\n"
    );
    assert_eq!(said, expected);
    assert_eq!(head_of(&world, "latest").await, ("b".to_owned(), "held".to_owned()));
    assert_eq!(head_of(&world, "beta").await, ("a".to_owned(), "frozen".to_owned()));
    assert_eq!(head_of(&world, "old").await, ("a".to_owned(), "none".to_owned()));
    let head = moves_of(&world, "latest").await.pop().expect("a head").data();
    assert_eq!(
        (&head["cause"], &head["previous_tag"], &head["reason"], &head["actor"]),
        (&json!("withdraw"), &json!("c"), &json!("leaks a key"), &json!("ada"))
    );

    let last = operator.stream_state(EVENT_STREAM).await.last_sequence;
    let again = operated_json(&world, &WITHDRAW_C).await;
    assert_eq!(again["already_withdrawn"], json!(true));
    let channels: Vec<_> = again["channels"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|step| json!([step["channel"], step["outcome"]]))
        .collect();
    assert_eq!(channels, [json!(["canary", "nothing_to_move_to"])]);
    assert_eq!(operator.stream_state(EVENT_STREAM).await.last_sequence, last, "the second run wrote");
    assert_eq!(withdrawals(&world).await.len(), 1);
}

#[tokio::test]
async fn a_withdrawn_release_comes_back_in_no_way() {
    let world = World::start(&[]).await;
    published(&world, &["a", "b", "c"]).await;
    operated(&world, &WITHDRAW_C).await;
    let words = "demonctl: release `c` was withdrawn by `ada`: leaks a key";
    assert_eq!(refused(&world, &["channel", "promote", "latest", "c"]).await, words);
    assert_eq!(refused(&world, &["channel", "rollback", "latest", "--to", "c", "--override"]).await, words);
    // The channel's way back leads past it.
    assert_eq!(operated(&world, &["channel", "rollback", "latest"]).await, "latest: b → a (rollback, held)\n");
    // Nor does its content under another tag.
    let source = world.directory().join("contracts");
    change_one_contract(&source, "c");
    let output = finished(publish_command(&world, &source, "d")).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(both_outputs(&output).contains("was withdrawn with release `c` by `ada`: leaks a key"));
}

/// Writes the event of a withdrawal and nothing else, as an operator who was killed just afterwards.
async fn only_announced(world: &World, tag: &str) {
    let log = event_log(&world.raw_operator().await).await;
    let subject = format!("bundle.published.contracts.release.{tag}");
    let published = log.iter().find(|message| message.subject == subject).expect("it is announced").data();
    let member = |name: &str| published[name].as_str().expect("a text").to_owned();
    let withdrawn = Withdrawn {
        bundle: "contracts".parse().expect("a valid name"),
        tag: tag.parse().expect("a valid tag"),
        tree_digest: member("tree_digest").parse().expect("a digest"),
        content_digest: member("content_digest").parse().expect("a digest"),
        reason: "killed on the way".to_owned(),
        actor: "bob".parse().expect("a valid name"),
    };
    append(world, "/operators/bob", withdrawn.into(), 0).await;
}

async fn append(world: &World, source: &str, event: shared::event::BundleEvent, after: u64) {
    let source: Source = source.parse().expect("a valid source");
    let mut writer = EventWriter::in_memory(source);
    let expectation = Expectation::OnOwnSubject(after);
    writer.append(&world.log().await, &draft(event), expectation, PATIENCE).await.expect("the log takes the event");
}

#[tokio::test]
async fn a_withdrawal_that_was_cut_off_is_finished_by_the_next() {
    let world = World::start(&[]).await;
    published(&world, &["a", "b", "c"]).await;
    operated(&world, &["channel", "promote", "beta", "a"]).await;
    operated(&world, &["channel", "promote", "beta", "c"]).await;
    only_announced(&world, "c").await;
    // One of the two channels was moved before the end.
    operated(&world, &["channel", "rollback", "latest"]).await;

    let said = operated(&world, &WITHDRAW_C).await;
    let expected = "release c of contracts was withdrawn before by bob\nbeta: c → a (withdraw, held)\n";
    assert_eq!(said, expected);
    assert_eq!(head_of(&world, "beta").await, ("a".to_owned(), "held".to_owned()));
    let withdrawals = withdrawals(&world).await;
    assert_eq!(withdrawals.len(), 1);
    assert_eq!(withdrawals[0].data()["actor"], json!("bob"));
}

#[tokio::test]
async fn a_promotion_at_the_moment_of_a_withdrawal_does_not_outlive_it() {
    const ROUNDS: [&str; 8] = ["r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"];
    let world = World::start(&[]).await;
    published(&world, &["a"]).await;
    published(&world, &ROUNDS).await;
    operated(&world, &["channel", "promote", "race", "a"]).await;
    for tag in ROUNDS {
        let promotion = operator_command(&world, &["channel", "promote", "race", tag]);
        let withdrawal = operator_command(&world, &["release", "withdraw", tag, "--reason", "broken", "--yes"]);
        let (promotion, withdrawal) = tokio::join!(finished(promotion), finished(withdrawal));
        assert!(withdrawal.status.success(), "{}", both_outputs(&withdrawal));
        let words = text_of(&promotion.stderr);
        let refusal = format!("demonctl: release `{tag}` was withdrawn by `ada`: broken\n");
        assert!(promotion.status.success() || words == refusal || words.contains("at the same moment"), "{words}");
        assert_eq!(head_of(&world, "race").await.0, "a", "the channel points at {tag}, which is withdrawn");
    }
}

#[tokio::test]
async fn two_releases_withdrawn_at_the_same_moment_are_both_left() {
    const ROUNDS: [(&str, &str); 4] = [("r1", "s1"), ("r2", "s2"), ("r3", "s3"), ("r4", "s4")];
    let world = World::start(&[]).await;
    published(&world, &["a"]).await;
    for (earlier, later) in ROUNDS {
        published(&world, &[earlier, later]).await;
    }
    for (earlier, later) in ROUNDS {
        for tag in ["a", earlier, later] {
            operated(&world, &["channel", "promote", "race", tag]).await;
        }
        let withdrawal = |tag| operator_command(&world, &["release", "withdraw", tag, "--reason", "broken", "--yes"]);
        let (one, other) = tokio::join!(finished(withdrawal(later)), finished(withdrawal(earlier)));
        assert!(one.status.success() && other.status.success(), "{}\n{}", both_outputs(&one), both_outputs(&other));
        assert_eq!(head_of(&world, "race").await.0, "a", "without {earlier} and {later}");
    }
}

#[tokio::test]
async fn a_withdrawal_does_not_bring_back_what_the_channel_was_rolled_back_from() {
    let world = World::start(&[]).await;
    published(&world, &["a", "b", "c"]).await;
    operated(&world, &["channel", "rollback", "latest"]).await;
    assert_eq!(head_of(&world, "latest").await, ("b".to_owned(), "held".to_owned()));
    operated(&world, &["release", "withdraw", "b", "--reason", "broken", "--yes"]).await;
    assert_eq!(head_of(&world, "latest").await, ("a".to_owned(), "held".to_owned()));
}

#[tokio::test]
async fn nothing_is_withdrawn_that_nobody_confirmed() {
    let world = World::start(&[]).await;
    published(&world, &["a", "b", "c"]).await;
    let operator = world.raw_operator().await;
    let before = operator.stream_state(EVENT_STREAM).await;
    let without_yes = ["release", "withdraw", "c", "--reason", "leaks a key"];
    let output = operate(&world, &without_yes, 2).await;
    assert_eq!(
        text_of(&output.stderr),
        "demonctl: a withdrawal cannot be undone and there is no terminal to ask on: say --yes\n"
    );
    operate(&world, &["release", "withdraw", "c", "--yes"], 2).await;
    let words = refused(&world, &["release", "withdraw", "contracts-latest", "--reason", "x", "--yes"]).await;
    assert!(words.starts_with("demonctl: `contracts-latest` stands for channel `latest` and is no release"), "{words}");
    let words = refused(&world, &["release", "withdraw", "z", "--reason", "x", "--yes"]).await;
    assert_eq!(words, "demonctl: bundle `contracts` has no release `z`");

    // At a terminal it asks, shows what would move, and takes anything but yes for no.
    let (code, screen) = at_a_terminal(&world, &without_yes, "n").await;
    assert_eq!(code, Some(1), "{screen}");
    for expected in ["latest: c → b", "Withdraw c of contracts, for good", "not confirmed, nothing was withdrawn"] {
        assert!(screen.contains(expected), "{screen}");
    }
    assert_eq!(operator.stream_state(EVENT_STREAM).await, before);
    let (code, screen) = at_a_terminal(&world, &without_yes, "yes").await;
    assert_eq!(code, Some(0), "{screen}");
    assert_eq!(head_of(&world, "latest").await, ("b".to_owned(), "held".to_owned()));
}

/// Runs the command line on a terminal on which somebody types an answer.
async fn at_a_terminal(world: &World, arguments: &[&str], answer: &str) -> (Option<i32>, String) {
    let command = operator_command(world, arguments);
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_string_lossy());
    let words: Vec<String> = [command.get_program()].into_iter().chain(command.get_args()).map(quoted).collect();
    let line = format!("printf '%s\\n' {answer} | script --quiet --return --command \"{}\" /dev/null", words.join(" "));
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let output = finished(shell).await;
    (output.status.code(), both_outputs(&output))
}

fn directories(world: &World, name: &str) -> AgentDirectories {
    AgentDirectories::below(world.directory(), name)
}

fn start_pinned(world: &World, node: &str, log: &str, tag: &str) -> Agent {
    let mut command = world.agent_command(node);
    command.env("DEMON_CONTRACTS_TAG", tag);
    Agent::start(log, command, directories(world, node), world.directory())
}

async fn loads(world: &World, node: &str) -> Vec<Value> {
    let log = event_log(&world.raw_operator().await).await;
    of_node(&log, "bundle.loaded", node).iter().map(|load| load.data()["tag"].clone()).collect()
}

#[tokio::test]
async fn every_live_node_leaves_a_withdrawn_release_and_the_command_can_wait_for_that() {
    let world = World::start(&["edge-1", "edge-2"]).await;
    published(&world, &["a", "b", "c"]).await;
    let mut agents = ["edge-1", "edge-2"].map(|node| world.start_agent(node));
    for agent in &mut agents {
        agent.switched_to("c").await;
    }
    let said = operated(&world, &[&WITHDRAW_C[..], &["--wait"]].concat()).await;
    assert!(said.ends_with("latest: c → b (withdraw, held)\nlatest: 2 of 2 nodes run b\n"), "{said}");
    for agent in &agents {
        assert_eq!(agent.active_tag().as_deref(), Some("b"));
    }
}

#[tokio::test]
async fn waiting_says_so_where_a_channel_has_nothing_to_move_to() {
    let world = World::start(&[]).await;
    published(&world, &["c"]).await;
    let output = operate(&world, &[&WITHDRAW_C[..], &["--wait"]].concat(), 3).await;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("channel `latest` has no release to move to"), "{words}");
}

#[tokio::test]
async fn a_pinned_node_leaves_a_withdrawn_release_too_and_a_restart_does_not_bring_it_back() {
    let world = World::start(&["edge-1"]).await;
    published(&world, &["a", "b", "c"]).await;
    operated(&world, &["channel", "rollback", "latest", "--to", "a"]).await;
    let mut agent = world.start_agent("edge-1");
    agent.switched_to("a").await;
    agent.process.kill();
    let mut agent = start_pinned(&world, "edge-1", "pinned", "c");
    agent.switched_to("c").await;
    operated(&world, &WITHDRAW_C).await;
    agent.switched_to("a").await;

    // Its copy is still in the cache, and the pin still says c.
    agent.process.kill();
    assert!(agent.cache().join("releases/c").is_dir());
    let mut agent = start_pinned(&world, "edge-1", "restarted", "c");
    agent.process.log_line("what it keeps", PATIENCE, |line| line.contains("withdrawn")).await;
    assert_eq!(agent.active_tag().as_deref(), Some("a"));
    eventually("its three switches in the log", PATIENCE, async || {
        let loads = loads(&world, "edge-1").await;
        satisfied(loads == ["a", "c", "a"], || format!("{loads:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_node_that_was_off_leaves_the_release_when_it_comes_back() {
    let world = World::start(&["edge-1"]).await;
    published(&world, &["b", "c"]).await;
    let mut agent = world.start_agent("edge-1");
    agent.switched_to("c").await;
    agent.process.kill();
    operated(&world, &WITHDRAW_C).await;
    let mut agent = world.start_agent_in("edge-1", "back", agent.directories());
    agent.switched_to("b").await;
}

#[tokio::test]
async fn a_node_that_is_sent_to_a_withdrawn_release_keeps_its_last_good_one() {
    let world = World::start(&["edge-1"]).await;
    published(&world, &["a", "b", "c"]).await;
    let mut agent = world.start_agent("edge-1");
    agent.switched_to("c").await;
    let moves = moves_of(&world, "latest").await;
    let to_c: Promoted = serde_json::from_value(moves.last().expect("a head").data()).expect("a head's data");
    operated(&world, &WITHDRAW_C).await;
    agent.switched_to("b").await;
    // No program of ours writes this; a node refuses it all the same. Its copy of c is still in the cache.
    assert!(agent.cache().join("releases/c").is_dir());
    let after = moves_of(&world, "latest").await.last().expect("a head").sequence;
    append(&world, "/operators/eve", to_c.into(), after).await;
    let alarm = "the node to say that it keeps what it has";
    agent.process.log_line(alarm, PATIENCE, |line| line.contains("withdrawn")).await;
    assert_eq!(agent.active_tag().as_deref(), Some("b"));

    // A node without anything runs what is built into it rather than that.
    let mut empty = world.start_agent_in("edge-1", "empty", directories(&world, "empty"));
    let said = "\"event\":\"bundle.fallback_activated\"";
    empty.process.log_line("what it runs instead", PATIENCE, |line| line.contains(said)).await;
    assert!(empty.active_tag().is_some_and(|tag| tag.starts_with("contracts-embedded-")));

    // Withdrawing again repairs the channel.
    let said = operated(&world, &WITHDRAW_C).await;
    assert_eq!(said, "release c of contracts was withdrawn before by ada\nlatest: c → b (withdraw, held)\n");
    empty.switched_to("b").await;
}
