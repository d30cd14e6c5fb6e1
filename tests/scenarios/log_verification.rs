//! `demonctl events export|verify` on real logs: what is clean, what is not, and that a proof needs no server.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use acceptance::handmade_release::{HandmadeRelease, contracts_files, draft};
use acceptance::raw_client::RawClient;
use acceptance::reported::{loaded, reported, writer_of};
use acceptance::stored_log::{event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::workspace_binary::WorkspaceBinary;
use acceptance::world::{World, both_outputs, finished, succeeded};
use async_nats::HeaderMap;
use chrono::Utc;
use serde_json::Value;
use shared::event_chain::EventChain;
use shared::event_export::{ExportReader, ExportWriter, ExportedEvent};
use streams::release_store::ReleaseStore;

async fn released(world: &World, tag: &str) {
    let store = ReleaseStore::new(world.operator().await);
    HandmadeRelease::stored(&store, "contracts", tag, &contracts_files(tag)).await.announced(&world.log().await).await;
}

/// A world whose log tells of two releases, an agent that was killed in between, and a second incarnation.
async fn eventful() -> World {
    let world = World::start(&["n1", "n2"]).await;
    let mut agent = world.start_agent("n1");
    released(&world, "v1").await;
    agent.switched_to("v1").await;
    told(&world, "v1").await;
    agent.process.kill();
    let directories = agent.directories();
    drop(agent);
    // Without its state directory it is another writer under the same name.
    fs::remove_dir_all(&directories.state).expect("the state is the test's own");
    let mut agent = world.start_agent_in("n1", "n1-again", directories);
    released(&world, "v2").await;
    agent.switched_to("v2").await;
    told(&world, "v2").await;
    drop(agent);
    world
}

/// Waits until the switch of n1 to a release is in the log.
async fn told(world: &World, tag: &str) {
    let operator = world.raw_operator().await;
    eventually(&format!("the switch to {tag} in the log"), PATIENCE, async || {
        let log = event_log(&operator).await;
        let told = of_node(&log, "bundle.loaded", "n1").iter().any(|event| event.data()["tag"] == tag);
        satisfied(told, || "not there".to_owned())
    })
    .await;
}

async fn verified(world: &World) -> (Option<i32>, Value) {
    let mut command = world.demonctl();
    command.args(["events", "verify", "--output", "json"]);
    let output = finished(command).await;
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", both_outputs(&output)));
    (output.status.code(), report)
}

async fn exported(world: &World, name: &str) -> std::path::PathBuf {
    let file = world.directory().join(name);
    let mut command = world.demonctl();
    command.args(["events", "export"]).arg(&file);
    succeeded(command).await;
    file
}

/// A command on a file, with no server to be reached.
async fn offline(arguments: &[&str], file: &Path) -> Output {
    let mut command: Command = WorkspaceBinary::Demonctl.command();
    command.env("NATS_URL", "nats://127.0.0.1:9").args(arguments).arg("--from").arg(file);
    finished(command).await
}

fn problems(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().map(|finding| finding["problem"].as_str().expect("a problem").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_log_is_clean_and_its_export_proves_and_replays_the_same_without_a_server() {
    let world = eventful().await;
    let (code, report) = verified(&world).await;
    assert_eq!((code, &report["clean"]), (Some(0), &Value::from(true)), "{report}");
    let last = world.raw_operator().await.stream_state("BUNDLE_EVENTS").await.last_sequence;
    assert_eq!((report["events"].as_u64(), report["last_sequence"].as_u64()), (Some(last), Some(last)));
    assert!(report["incarnations"].as_u64() > report["sources"].as_u64(), "n1 has two incarnations: {report}");

    let mut replay = world.demonctl();
    replay.args(["events", "replay", "--output", "json"]);
    let online = succeeded(replay).await.stdout;
    let file = exported(&world, "log.jsonl.zst").await;
    let log = event_log(&world.raw_operator().await).await;

    let mut reader = ExportReader::begin(File::open(&file).expect("the export")).expect("an export");
    for message in &log {
        let event = reader.next_event().expect("whole").expect("one line for each event");
        assert_eq!(
            (event.stream_sequence, &event.subject, &event.payload),
            (message.sequence, &message.subject, &message.payload)
        );
        assert_eq!(event.message_id.as_deref(), message.header("Nats-Msg-Id"));
    }
    assert!(reader.next_event().expect("proven").is_none());

    let offline_report = offline(&["events", "verify", "--output", "json"], &file).await;
    assert_eq!(offline_report.status.code(), Some(0), "{}", both_outputs(&offline_report));
    assert_eq!(serde_json::from_slice::<Value>(&offline_report.stdout).expect("JSON"), report);
    let offline_state = offline(&["events", "replay", "--output", "json"], &file).await;
    let state = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    assert_eq!(state(&offline_state.stdout), state(&online));
    let then = offline(&["node", "show", "n1", "--at", "2099-01-01", "--output", "json"], &file).await;
    assert_eq!(state(&then.stdout)[0]["active"]["tag"], "v2", "{}", both_outputs(&then));
    let begun = offline(&["state", "--at", "1", "--output", "json"], &file).await;
    assert_eq!(state(&begun.stdout)["as_of"]["stream_sequence"], 1, "{}", both_outputs(&begun));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_appears_whole_or_not_at_all_and_replaces_nothing_unasked() {
    let world = World::start(&["n1"]).await;
    let mut writer = writer_of("n1");
    for number in 0..3 {
        reported(&world.log().await, &mut writer, loaded("v1", number), Utc::now()).await;
    }
    let directory = world.subdirectory("exports");
    let export = |arguments: &[&str]| {
        let mut command = world.demonctl();
        command.args(["events", "export", "--output", "json"]).args(arguments).arg(directory.join("log.jsonl.zst"));
        command
    };
    let first = succeeded(export(&["--to", "2"])).await;
    let first: Value = serde_json::from_slice(&first.stdout).expect("JSON");
    assert_eq!((&first[0]["events"], &first[0]["last_sequence"]), (&Value::from(2), &Value::from(2)));
    let refused = finished(export(&[])).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("exists already"), "{}", both_outputs(&refused));
    let second = succeeded(export(&["--force"])).await;
    let second: Value = serde_json::from_slice(&second.stdout).expect("JSON");
    assert_eq!(second[0]["events"], 4);
    let names: Vec<_> =
        fs::read_dir(&directory).expect("readable").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["log.jsonl.zst"]);

    let stored_at = event_time(&world, 3).await;
    let until = succeeded(export(&["--force", "--until", &stored_at])).await;
    assert_eq!(serde_json::from_slice::<Value>(&until.stdout).expect("JSON")[0]["last_sequence"], 3);
}

async fn event_time(world: &World, sequence: u64) -> String {
    let mut command = world.demonctl();
    command.args(["events", "show", &sequence.to_string(), "--output", "json"]);
    let event: Value = serde_json::from_slice(&succeeded(command).await.stdout).expect("JSON");
    event["stored_at"].as_str().expect("a time").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_or_cut_off_export_is_refused_in_one_line() {
    let world = World::start(&["n1"]).await;
    let mut writer = writer_of("n1");
    for number in 0..5 {
        reported(&world.log().await, &mut writer, loaded("v1", number), Utc::now()).await;
    }
    let file = exported(&world, "log.jsonl.zst").await;
    let whole = fs::read(&file).expect("the export");
    let altered = world.directory().join("altered.jsonl.zst");
    let refused = async |bytes: &[u8], what: &str| {
        fs::write(&altered, bytes).expect("writable");
        for command in ["verify", "replay"] {
            let output = offline(&["events", command], &altered).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{what}: {}", both_outputs(&output));
            assert!(output.stdout.is_empty(), "{what}: nothing of it was used: {}", both_outputs(&output));
            assert_eq!(said.lines().count(), 1, "{what}: {said}");
            assert!(said.contains("is refused"), "{what}: {said}");
        }
    };
    for position in [whole.len() / 4, whole.len() / 2, whole.len() - 3] {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        refused(&bytes, &format!("byte {position} altered")).await;
        refused(&whole[..position], &format!("cut off at {position}")).await;
    }
    refused(b"", "empty").await;
    refused(b"{\"format\":\"something else\"}\n", "another file").await;
    // One byte of one payload, in a file that is not compressed: the digest tells.
    let text = String::from_utf8(plain(&file)).expect("text");
    refused(text.replacen("\\\"verified\\\":true", "\\\"verified\\\":trub", 1).as_bytes(), "one letter").await;
    fs::write(&altered, &text).expect("writable");
    let untouched = offline(&["events", "verify"], &altered).await;
    assert_eq!(untouched.status.code(), Some(0), "an uncompressed export is one too: {}", both_outputs(&untouched));
}

/// The lines of an export, not compressed.
fn plain(file: &Path) -> Vec<u8> {
    let mut reader = ExportReader::begin(File::open(file).expect("the export")).expect("an export");
    let mut events = Vec::new();
    while let Some(event) = reader.next_event().expect("whole") {
        events.push(event);
    }
    let header = serde_json::to_string(reader.header()).expect("JSON");
    let footer = serde_json::to_string(reader.footer().expect("proven")).expect("JSON");
    let lines = events.iter().map(|event| {
        let payload = String::from_utf8(event.payload.clone()).expect("an event is text");
        let stored_at = serde_json::to_string(&event.stored_at).expect("JSON");
        format!(
            "{{\"stream_sequence\":{},\"stored_at\":{stored_at},\"subject\":{},\"message_id\":{},\"payload\":{}}}",
            event.stream_sequence,
            Value::from(event.subject.clone()),
            Value::from(event.message_id.clone()),
            Value::from(payload)
        )
    });
    let mut text = format!("{header}\n");
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text.push_str(&footer);
    text.push('\n');
    text.into_bytes()
}

/// What a forger does, with the problem that must be found.
type Change<'a> = (&'a str, &'a dyn Fn(&mut Vec<ExportedEvent>));

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_export_with_a_digest_of_its_own_is_found_by_its_chains() {
    let world = eventful().await;
    let file = exported(&world, "log.jsonl.zst").await;
    let forged = world.directory().join("forged.jsonl.zst");
    let forge = |change: &dyn Fn(&mut Vec<ExportedEvent>)| {
        let mut reader = ExportReader::begin(File::open(&file).expect("the export")).expect("an export");
        let mut events = Vec::new();
        while let Some(event) = reader.next_event().expect("whole") {
            events.push(event);
        }
        change(&mut events);
        let mut writer =
            ExportWriter::begin(File::create(&forged).expect("writable"), reader.header()).expect("written");
        for event in events {
            writer.write(event).expect("written");
        }
        writer.finish().expect("written");
    };
    let staged = |events: &[ExportedEvent]| {
        events.iter().position(|event| event.subject == "bundle.staged.contracts.node.n1").expect("it was staged")
    };
    let lie = |event: &mut ExportedEvent| {
        let text = String::from_utf8(event.payload.clone()).expect("text").replace("\"v1\"", "\"v9\"");
        event.payload = text.into_bytes();
    };
    let changes: [Change<'_>; 5] = [
        ("altered", &|events| {
            let at = staged(events);
            lie(&mut events[at]);
        }),
        ("missing_messages", &|events| {
            let at = staged(events);
            events.remove(at);
        }),
        ("stream_order", &|events| {
            let at = staged(events);
            let twice = events[at].clone();
            events.insert(at, twice);
        }),
        ("contradiction", &|events| {
            let at = staged(events);
            events[at].subject = "bundle.staged.contracts.node.n2".to_owned();
        }),
        ("missing_messages", &|events| {
            events.pop();
        }),
    ];
    for (expected, change) in changes {
        forge(change);
        let output = offline(&["events", "verify", "--output", "json"], &forged).await;
        assert_eq!(output.status.code(), Some(1), "{expected}: {}", both_outputs(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(problems(&report).iter().any(|found| found == expected), "{expected}: {report}");
    }
}

async fn stored(operator: &RawClient, subject: &str, payload: Vec<u8>) {
    let answer = operator.store(subject, HeaderMap::new(), payload).await;
    assert!(answer.error.is_none(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_slips_into_the_stream_is_named_with_source_and_place() {
    let world = eventful().await;
    let operator = world.raw_operator().await;
    let log = event_log(&operator).await;
    let first_loaded = of_node(&log, "bundle.loaded", "n1")[0].clone();
    let last = log.last().expect("events").sequence;
    stored(&operator, &first_loaded.subject, first_loaded.payload.clone()).await;
    let forked = String::from_utf8(first_loaded.payload.clone()).expect("text").replace("\"v1\"", "\"v9\"");
    stored(&operator, &first_loaded.subject, forked.into_bytes()).await;
    stored(&operator, "bundle.loaded.contracts.node.n2", first_loaded.payload.clone()).await;
    stored(&operator, "bundle.loaded.contracts.node.n2", b"garbage \x1b[31m".to_vec()).await;
    let (code, report) = verified(&world).await;
    assert_eq!(code, Some(1));
    let findings = report["findings"].as_array().expect("findings");
    assert_eq!(problems(&report), ["duplicate", "fork", "contradiction", "not_an_event"], "{report}");
    for (number, finding) in findings.iter().enumerate() {
        assert_eq!(finding["stream_sequence"].as_u64(), Some(last + 1 + number as u64));
    }
    assert_eq!(
        (&findings[0]["source"], &findings[0]["first_at"]),
        (&Value::from("/nodes/n1"), &Value::from(first_loaded.sequence))
    );
    assert_eq!(findings[1]["sequence"].as_u64(), first_loaded.event()["sequence"].as_str().expect("text").parse().ok());

    let mut table = world.demonctl();
    table.args(["events", "verify"]);
    let table = finished(table).await;
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert_eq!(table.status.code(), Some(1));
    assert!(text.contains("NOT CLEAN, 4 findings"), "{text}");

    // It is shown like all others, and does nothing to the terminal.
    let garbage = (last + 4).to_string();
    for arguments in [["events", "show", &garbage], ["events", "list", "--output=table"]] {
        let mut command = world.demonctl();
        command.args(arguments);
        let shown = succeeded(command).await.stdout;
        assert!(!shown.contains(&0x1b), "{}", String::from_utf8_lossy(&shown));
        assert!(String::from_utf8_lossy(&shown).contains(&garbage));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_several_pages_is_read_whole_by_every_command() {
    const EVENTS: u64 = 2_500;
    let world = World::start(&["n1"]).await;
    let operator = world.raw_operator().await;
    let source = "/nodes/n1".parse().expect("a source");
    let mut chain = EventChain::new("0193b1c27e1f4a558c110242ac120002".parse().expect("an incarnation"), None);
    for number in 2..=EVENTS {
        let event = chain.seal(&source, &draft(loaded(&format!("v{number}"), number).into())).expect("a valid event");
        operator.send(&event.subject.to_string(), None, HeaderMap::new(), event.bytes.clone()).await;
        chain = chain.after(&event);
    }
    eventually("all events", PATIENCE, async || {
        let state = operator.stream_state("BUNDLE_EVENTS").await;
        satisfied(state.messages == EVENTS, || format!("{} are stored", state.messages))
    })
    .await;
    let lines = async |arguments: &[&str]| {
        let mut command = world.demonctl();
        command.args(arguments);
        let output = succeeded(command).await.stdout;
        let lines = String::from_utf8(output).expect("text").lines().map(ToOwned::to_owned).collect::<Vec<_>>();
        let sequences =
            lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["stream_sequence"].as_u64());
        sequences.collect::<Vec<u64>>()
    };
    let all: Vec<u64> = (1..=EVENTS).collect();
    assert_eq!(lines(&["events", "list", "--output", "jsonl"]).await, all);
    let limit = EVENTS.to_string();
    assert_eq!(lines(&["events", "tail", "--from", "1", "--limit", &limit, "--output", "jsonl"]).await, all);
    assert_eq!(lines(&["events", "replay", "--steps", "--output", "jsonl"]).await, all);
    assert_eq!(lines(&["events", "list", "--tag", "v2300", "--output", "jsonl"]).await, [2300]);
    let mut state = world.demonctl();
    state.args(["state", "--at", "1500", "--output", "json"]);
    let state: Value = serde_json::from_slice(&succeeded(state).await.stdout).expect("JSON");
    assert_eq!(state["nodes"][0]["active"]["tag"], "v1500");
    assert_eq!(state["nodes"][0]["activations"].as_array().expect("switches").len(), 1499);
    let (code, report) = verified(&world).await;
    assert_eq!((code, report["events"].as_u64()), (Some(0), Some(EVENTS)));
    let file = exported(&world, "log.jsonl.zst").await;
    let offline_report = offline(&["events", "verify", "--output", "json"], &file).await;
    assert_eq!(serde_json::from_slice::<Value>(&offline_report.stdout).expect("JSON"), report);
}
