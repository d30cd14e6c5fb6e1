//! Runs every committed fuzz input through what the fuzz targets check, without a fuzzer: seeds made of real releases,
//! events and logs, and all that a fuzzer ever found.
//!
//! `cargo test -p shared --test fuzz_inputs -- --ignored` writes the seeds anew after a change of format.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "public in the crate of the fuzz targets")]
mod fuzz;

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use chrono::DateTime;
use shared::archive::write_archive;
use shared::checkpoint::{Checkpoint, event_leaf};
use shared::delta::{DEFAULT_WINDOW_LOG, DeltaOptions, write_delta};
use shared::digest::Sha256Digest;
use shared::event_envelope::EventEnvelope;
use shared::event_export::{EXPORT_FORMAT, EXPORT_VERSION, ExportHeader, ExportWriter, ExportedEvent};
use shared::event_type::EventType;
use shared::limits::ReleaseLimits;
use shared::log_proof::{LogProof, ProvenEvent, ProvenTree, Statement};
use shared::merkle::{Frontier, ProofBuilder};
use shared::release::{FileMode, Release, ReleaseFile};
use shared::signed_note::SignerKey;

/// Takes any bytes and panics where a promise is broken.
type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 9] = [
    ("archive", fuzz::releases::archive),
    ("checkpoint", fuzz::proofs::checkpoint),
    ("delta", fuzz::deltas::delta),
    ("event_envelope", fuzz::history::event_envelope),
    ("event_export", fuzz::history::event_export),
    ("event_log", fuzz::history::event_log),
    ("log_proof", fuzz::proofs::log_proof),
    ("release_json", fuzz::releases::release_json),
    ("subject", fuzz::history::subject),
];

fn workspace_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn files_of(directory: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(workspace_path(directory)) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

#[test]
fn every_seed_and_every_finding_keeps_the_promises() {
    for (target, check) in TARGETS {
        let seeds = files_of(&format!("fuzz/seeds/{target}"));
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for path in seeds.into_iter().chain(files_of(&format!("fuzz/findings/{target}"))) {
            check(&fs::read(path).unwrap());
        }
    }
}

#[test]
fn every_target_is_built_by_the_fuzzer() {
    let manifest = fs::read_to_string(workspace_path("fuzz/Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

#[test]
#[ignore = "writes files of the repository"]
fn write_the_seeds() {
    let small = release(&[("bundle.json", b"{}".as_slice(), "0644")]);
    let deep = format!("{}file", "deep/".repeat(30));
    let larger = release(&[
        ("a/long/way/down/policy.wasm", [0, 0x61, 0x73, 0x6d].as_slice(), "0644"),
        (&deep, b"long name", "0644"),
        ("run.sh", b"#!/bin/sh\n", "0755"),
        ("empty", b"", "0644"),
    ]);
    for (name, (release, archive)) in [("small", &small), ("larger", &larger)] {
        let release_json = release.to_json().unwrap();
        seed("release_json", name, &release_json);
        seed("archive", name, &[&release_json, b"\n".as_slice(), archive].concat());
    }
    let events: Vec<(String, Vec<u8>)> = EventType::KNOWN.iter().map(event).collect();
    let mut log = Vec::new();
    for (subject, payload) in &events {
        let event_type = subject.split('.').nth(1).unwrap();
        seed("event_envelope", event_type, payload);
        seed("subject", event_type, subject.as_bytes());
        log.extend_from_slice(&[subject.as_bytes(), b" ", payload, b"\n"].concat());
    }
    seed("event_log", "one_of_each", &log);
    seed("delta", "small", &delta());
    let (signed, proof) = signed_proof(&events);
    seed("checkpoint", "signed", signed.as_bytes());
    seed("log_proof", "inclusion", proof.as_bytes());
    let export = export(&events);
    seed("event_export", "one_of_each", &export);
    seed("event_export", "one_of_each_uncompressed", &zstd::decode_all(export.as_slice()).unwrap());
}

fn seed(target: &str, name: &str, bytes: &[u8]) {
    let directory = workspace_path(&format!("fuzz/seeds/{target}"));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), bytes).unwrap();
}

fn release(files: &[(&str, &[u8], &str)]) -> (Release, Vec<u8>) {
    let listed = files.iter().map(|(path, content, mode)| ReleaseFile {
        path: path.parse().unwrap(),
        size: content.len() as u64,
        mode: FileMode::from_bits(u32::from_str_radix(mode, 8).unwrap()),
        sha256: Sha256Digest::of(content),
    });
    let (bundle, tag) = ("contracts".parse().unwrap(), "v1".parse().unwrap());
    let release = Release::new(bundle, tag, None, listed.collect(), &ReleaseLimits::default()).unwrap();
    let content = |file: &ReleaseFile| files.iter().find(|(path, ..)| *path == file.path.as_str()).unwrap().1;
    let archive = write_archive(&release, |file| Ok(content(file)), Vec::new()).unwrap();
    (release, archive)
}

fn event(event_type: &EventType) -> (String, Vec<u8>) {
    let payload = fs::read(workspace_path(&format!("shared/testdata/events/{event_type}.v1.json"))).unwrap();
    let envelope = EventEnvelope::parse(&payload).unwrap();
    (envelope.event.stored_subject(&envelope.source).unwrap().to_string(), payload)
}

fn delta() -> Vec<u8> {
    use fuzz::deltas::{BASE, TARGET, content, release};
    let releases = [&release(&BASE, "v1"), &release(&TARGET, "v2")];
    let options = DeltaOptions { window_log: DEFAULT_WINDOW_LOG, level: 19, at_most: u64::MAX };
    let (old, new) = (|file: &ReleaseFile| content(&BASE, file), |file: &ReleaseFile| content(&TARGET, file));
    write_delta(releases, |file| Ok(Cursor::new(old(file))), |file| Ok(new(file)), options, Vec::new()).unwrap()
}

/// A checkpoint over the events, and the proof that the third is among them.
fn signed_proof(events: &[(String, Vec<u8>)]) -> (String, String) {
    let leaf = |(subject, payload): &(String, Vec<u8>)| event_leaf(subject, DateTime::UNIX_EPOCH, payload);
    let size = events.len() as u64;
    let (mut frontier, mut builder) = (Frontier::default(), ProofBuilder::inclusion(2, size).unwrap());
    for event in events {
        frontier.push(leaf(event));
        builder.push(leaf(event));
    }
    let key = SignerKey::from_seed("example.com/fleet".parse().unwrap(), &[1; 32]);
    let checkpoint = Checkpoint { origin: key.name().clone(), size, root: frontier.root(), epoch: None };
    let note = checkpoint.sign(&key).unwrap().note();
    let (subject, payload) = events[2].clone();
    let payload = String::from_utf8(payload).unwrap();
    let event = ProvenEvent { stream_sequence: 3, stored_at: DateTime::UNIX_EPOCH, subject, payload };
    let tree = ProvenTree { size, root: frontier.root(), checkpoint: Some(note.clone()) };
    let statement = Statement::Inclusion { event, tree };
    let proof = LogProof::new("BUNDLE_EVENTS".to_owned(), None, statement, builder.finish().unwrap());
    (note, serde_json::to_string(&proof).unwrap())
}

fn export(events: &[(String, Vec<u8>)]) -> Vec<u8> {
    let header = ExportHeader {
        format: EXPORT_FORMAT.to_owned(),
        version: EXPORT_VERSION,
        stream: "BUNDLE_EVENTS".to_owned(),
        epoch: None,
        last_sequence: events.len() as u64,
        exported_at: DateTime::UNIX_EPOCH,
    };
    let mut writer = ExportWriter::begin(Vec::new(), &header).unwrap();
    for ((subject, payload), stream_sequence) in events.iter().zip(1..) {
        let (stored_at, subject, payload) = (DateTime::UNIX_EPOCH, subject.clone(), payload.clone());
        writer.write(ExportedEvent { stream_sequence, stored_at, subject, message_id: None, payload }).unwrap();
    }
    writer.finish().unwrap().0
}
