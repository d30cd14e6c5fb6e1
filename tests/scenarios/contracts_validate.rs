//! The contracts bundle on the command line: built, written the same everywhere, checked, compared. Needs no server.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use acceptance::workspace_binary::WorkspaceBinary;
use serde_json::{Value, json};
use tempfile::TempDir;

const SHA: &str = "1f0e9d8c7b6a59483726150413f2e1d0c9b8a796";
const RELEASE_FILES: [&str; 3] = ["bundle.json", "bundle.sha256", "manifest.json"];
/// For work that takes a few seconds where the machine is free.
const LIMIT: Duration = Duration::from_mins(2);

/// `demonctl contracts …` without what the surroundings would tell it.
fn contracts(arguments: &[&str]) -> Command {
    let mut command = WorkspaceBinary::Demonctl.command();
    command.arg("contracts").args(arguments).env_remove("SOURCE_DATE_EPOCH");
    command
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("demonctl starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ends by itself")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("it prints text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("it prints text")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

fn own_contracts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../contracts")
}

fn write(directory: &TempDir, name: &str, content: &str) -> String {
    let file = directory.path().join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, content).unwrap();
    path(&file).to_owned()
}

/// The text of a bundle of these schemas.
fn bundle(schemas: &Value) -> String {
    let texts = schemas.as_object().unwrap().iter().map(|(name, schema)| (name.clone(), json!(schema.to_string())));
    json!({ "version": "1.0.0", "schemas": Value::Object(texts.collect()) }).to_string()
}

fn release(directory: &TempDir) -> PathBuf {
    let output = directory.path().join("dist/contracts");
    let arguments = ["--output-dir", path(&output), "--git-sha", SHA, "--timestamp", "1770098411"];
    let built = run(contracts(&["bundle", path(&own_contracts())]).args(arguments));
    assert_eq!(code(&built), 0, "{}", stderr(&built));
    output
}

#[test]
fn the_products_own_contracts_are_valid_and_belong_to_their_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let release = release(&directory);
    let file = release.join("bundle.json");
    let manifest: Value = serde_json::from_slice(&fs::read(release.join("manifest.json")).unwrap()).unwrap();
    let digest = manifest["bundle_sha256"].as_str().unwrap();
    assert_eq!((&manifest["git"]["sha"], &manifest["timestamp"]), (&json!(SHA), &json!("2026-02-03T06:00:11Z")));

    let text = run(&mut contracts(&["validate", path(&file)]));
    assert_eq!((code(&text), stderr(&text)), (0, ""), "{}", stdout(&text));
    let line = stdout(&text).strip_suffix('\n').unwrap();
    assert!(line.starts_with(&format!("✓ {} is valid: ", path(&file))), "{line}");
    assert!(line.ends_with(&format!(" schemas, 1 WIT file, digest {digest}")), "{line}");

    let report = run(&mut contracts(&["validate", path(&file), "--format", "json"]));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    for (field, expected) in [
        ("valid", json!(true)),
        ("digest", json!(digest)),
        ("errors", json!([])),
        ("warnings", json!([])),
        ("breaking", json!([])),
        ("wit", json!(1)),
    ] {
        assert_eq!(report[field], expected, "{field}");
    }
    assert!(report["schemas"].as_u64().unwrap() >= 14);
}

#[test]
fn every_kind_of_defect_is_one_line_and_exit_1() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content, expected) in [
        ("not-json", "{".to_owned(), "/: it is not JSON: "),
        ("no-schemas", "{}".to_owned(), "/schemas: it is missing"),
        ("empty", r#"{"schemas": {}}"#.to_owned(), "/schemas: the bundle is empty"),
        ("no-text", r#"{"schemas": {"a.json": {}}}"#.to_owned(), "/schemas/a.json: it is an object, not a string"),
        ("schema-not-json", r#"{"schemas": {"a.json": "x"}}"#.to_owned(), "/schemas/a.json: the text is not JSON"),
        ("no-schema", bundle(&json!({ "a.json": { "type": "nil" } })), "/schemas/a.json#/type: `nil` is not a type"),
        ("reference", bundle(&json!({ "a.json": { "$ref": "b" } })), "/schemas/a.json#/$ref: `b` is not in the bundle"),
    ] {
        let file = write(&directory, name, &content);
        let text = run(&mut contracts(&["validate", &file]));
        let lines: Vec<&str> = stdout(&text).lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with(expected), "{name}: {lines:?}");
        assert_eq!((code(&text), stderr(&text)), (1, &*format!("✗ {file} is not valid: 1 defect\n")), "{name}");

        let json = run(&mut contracts(&["validate", &file, "--format", "json"]));
        let report: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!((code(&json), &report["valid"], &report["file"]), (1, &json!(false), &json!(file)), "{name}");
        let defect = &report["errors"][0];
        let (place, message) = expected.split_once(": ").unwrap();
        assert_eq!(defect["path"], json!(place.strip_suffix('/').unwrap_or(place)), "{name}");
        assert!(defect["message"].as_str().unwrap().starts_with(message), "{name}: {defect}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.json");
    for file in [path(&missing), path(directory.path())] {
        let output = run(&mut contracts(&["validate", file]));
        assert_eq!((code(&output), stdout(&output)), (1, ""));
        assert!(stderr(&output).contains(file) && stderr(&output).lines().count() == 1, "{}", stderr(&output));
    }
    assert_eq!(code(&run(&mut contracts(&["validate"]))), 2);
}

#[test]
fn standard_input_is_read_on_request() {
    for (content, expected) in [(bundle(&json!({ "a.json": {} })), 0), ("{}".to_owned(), 1)] {
        let mut command = contracts(&["validate", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(code(&output), expected, "{}", stdout(&output));
    }
}

#[test]
fn manifest_and_checksum_must_belong_to_the_bundle() {
    let directory = tempfile::tempdir().unwrap();
    let release = release(&directory);
    let (file, manifest) = (release.join("bundle.json"), release.join("manifest.json"));
    let validate = |more: &[&str]| run(contracts(&["validate", path(&file)]).args(more));

    let mut document: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    document["comment"] = json!("who knows");
    fs::write(&manifest, document.to_string()).unwrap();
    let output = validate(&[]);
    let warning = "warning: manifest.json#/comment: nobody knows this key\n";
    assert_eq!((code(&output), stderr(&output)), (0, warning));
    let output = validate(&["--strict"]);
    assert_eq!((code(&output), stdout(&output)), (1, "manifest.json#/comment: nobody knows this key\n"));

    // A sound bundle, but not the one that was released.
    let released = document["bundle_sha256"].as_str().unwrap().to_owned();
    let other = bundle(&json!({ "a.json": {} }));
    fs::write(&file, &other).unwrap();
    let output = validate(&[]);
    let expected = format!("SHA-256 mismatch: expected {released}, got ");
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with(&format!("manifest.json#/bundle_sha256: {expected}")), "{lines:?}");
    assert!(lines[1].starts_with(&format!("bundle.sha256: {expected}")), "{lines:?}");
    assert_eq!(code(&output), 1);

    // A file of another name has no manifest unless one is named.
    let elsewhere = path(&release.join("other.json")).to_owned();
    fs::write(&elsewhere, &other).unwrap();
    assert_eq!(code(&run(&mut contracts(&["validate", &elsewhere]))), 0);
    assert_eq!(code(&run(&mut contracts(&["validate", &elsewhere, "--manifest", path(&manifest)]))), 1);
}

#[test]
fn breaking_changes_are_shown_and_refused_on_request() {
    let directory = tempfile::tempdir().unwrap();
    let base = write(&directory, "base.json", &bundle(&json!({ "a.json": { "maximum": 2 }, "b.json": {} })));
    let new = write(&directory, "new.json", &bundle(&json!({ "a.json": { "maximum": 1 } })));
    let lines = "breaking: a.json#/maximum: the constraint was tightened from 2 to 1\n\
                 breaking: b.json: the schema was removed\n";

    let shown = run(&mut contracts(&["validate", &new, "--base", &base]));
    assert_eq!(code(&shown), 0);
    assert!(stdout(&shown).starts_with(&format!("{lines}✓ ")), "{}", stdout(&shown));
    let refused = run(&mut contracts(&["validate", &new, "--base", &base, "--require-compatible"]));
    assert_eq!((code(&refused), stdout(&refused)), (1, lines));
    let report = run(&mut contracts(&["validate", &new, "--base", &base, "--require-compatible", "--format", "json"]));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!((&report["valid"], report["breaking"].as_array().unwrap().len()), (&json!(false), 2));
    assert_eq!(
        report["breaking"][0],
        json!({ "schema": "a.json", "path": "/maximum", "change": "constraint_tightened", "from": 2, "to": 1 })
    );

    assert_eq!(code(&run(&mut contracts(&["validate", &base, "--base", &base, "--require-compatible"]))), 0);
    assert_eq!(code(&run(&mut contracts(&["validate", &new, "--require-compatible"]))), 2);
    let bad = write(&directory, "bad.json", "{}");
    let unusable = run(&mut contracts(&["validate", &new, "--base", &bad]));
    assert!(code(&unusable) == 1 && stderr(&unusable).contains(&bad), "{}", stderr(&unusable));
}

#[test]
fn two_thousand_schemas_take_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let schema = |index: usize| {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": format!("urn:test:{index}"),
            "type": "object",
            "properties": {
                "name": { "type": "string", "pattern": format!("^[a-z]{{1,{}}}$", index % 50 + 1), "minLength": 1 },
                "next": { "$ref": format!("{}.json", (index + 1) % 2_000) },
                "again": { "anyOf": [{ "$ref": format!("urn:test:{}", (index + 7) % 2_000) }, { "type": "null" }] },
            },
            "required": ["name"],
            "additionalProperties": false,
        })
    };
    let schemas: serde_json::Map<String, Value> =
        (0..2_000).map(|index| (format!("{index}.json"), schema(index))).collect();
    let base = write(&directory, "base.json", &bundle(&Value::Object(schemas.clone())));
    let mut changed = schemas;
    changed["1234.json"]["properties"]["name"]["minLength"] = json!(2);
    let new = write(&directory, "new.json", &bundle(&Value::Object(changed)));

    let begun = Instant::now();
    let output = run(&mut contracts(&["validate", &new, "--base", &base]));
    assert!(begun.elapsed() < LIMIT, "it took {:?}", begun.elapsed());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let breaking = "breaking: 1234.json#/properties/name/minLength: the constraint was tightened from 1 to 2";
    assert_eq!(stdout(&output).lines().next(), Some(breaking));
    assert!(stdout(&output).contains("is valid: 2000 schemas, digest "), "{}", stdout(&output));
}

#[test]
fn the_same_contracts_give_the_same_files_anywhere() {
    let directory = tempfile::tempdir().unwrap();
    let files = [
        ("schemas/b.json", "{}"),
        ("schemas/A.json", "true"),
        ("envelopes/result.json", "{\"é\": 1}"),
        ("wit/x.wit", "package a:b;"),
    ];
    let mut built = Vec::new();
    for (place, surroundings) in [("one", ("UTC", "C", "022")), ("other/place", ("Asia/Tokyo", "de_DE.UTF-8", "077"))] {
        let mut files = files;
        if place == "one" {
            files.reverse();
        }
        for (name, content) in files {
            write(&directory, &format!("{place}/contracts/{name}"), content);
        }
        let (zone, locale, mask) = surroundings;
        let program = WorkspaceBinary::Demonctl.path();
        let script = format!("umask {mask} && exec \"$0\" contracts bundle --output-dir out --git-sha {SHA}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, path(&program)]).current_dir(directory.path().join(place));
        command.env_clear().envs([("TZ", zone), ("LC_ALL", locale), ("SOURCE_DATE_EPOCH", "1770098411")]);
        let output = run(&mut command);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        built.push(directory.path().join(place).join("out"));
    }
    for name in RELEASE_FILES {
        let (one, other) = (built[0].join(name), built[1].join(name));
        assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap(), "{name}");
        for file in [one, other] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o644, "{name}");
        }
    }
    let manifest: Value = serde_json::from_slice(&fs::read(built[0].join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["timestamp"], "2026-02-03T06:00:11Z");
    assert_eq!(fs::read_dir(&built[0]).unwrap().count(), RELEASE_FILES.len(), "nothing else is left there");
}

#[test]
fn the_bundle_is_printed_as_it_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let release = release(&directory);
    let print = |more: &[&str]| run(contracts(&["bundle", path(&own_contracts())]).args(more));
    let whole = print(&["--format", "json", "--include-wit"]);
    assert_eq!(whole.stdout, fs::read(release.join("bundle.json")).unwrap());
    let mut document: Value = serde_json::from_slice(&whole.stdout).unwrap();
    document["wit"] = json!({});
    let without = print(&["--format", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&without.stdout).unwrap(), document);

    let summary = print(&[]);
    let count = document["schemas"].as_object().unwrap().len();
    let envelope = document["schemas"]["result-envelope.json"].as_str().unwrap();
    for part in [
        "Contract Bundle Summary\n=======================\n\n".to_owned(),
        format!("\nSchemas ({count}):\n  - "),
        format!("\n  - result-envelope.json ({} lines, {} bytes)\n", envelope.lines().count(), envelope.len()),
        "\n\nWIT Definitions (1):\n  - demon-envelope.wit (".to_owned(),
        format!("\n\nTotal contracts: {}\n", count + 1),
    ] {
        assert!(stdout(&summary).contains(&part), "{part}: {}", stdout(&summary));
    }
}

#[test]
fn without_contracts_only_the_summary_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let here = |arguments: &[&str]| run(contracts(arguments).current_dir(directory.path()));
    let summary = here(&["bundle"]);
    assert_eq!((code(&summary), stdout(&summary).lines().last()), (0, Some("Total contracts: 0")));
    assert!(stderr(&summary).starts_with("warning: there is no directory `contracts`"), "{}", stderr(&summary));
    for arguments in [&["bundle", "--format", "json"][..], &["bundle", "--output-dir", "out"], &["bundle", "none"]] {
        let output = here(arguments);
        assert_eq!((code(&output), stdout(&output)), (1, ""), "{arguments:?}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn contracts_that_are_not_valid_are_not_written() {
    let directory = tempfile::tempdir().unwrap();
    write(&directory, "contracts/schemas/a.json", "{\"$ref\": \"none.json\"}");
    let old = write(&directory, "out/bundle.json", "as it was");
    let here = |arguments: &[&str]| run(contracts(arguments).current_dir(directory.path()));
    let refused = here(&["bundle", "--output-dir", "out"]);
    assert_eq!((code(&refused), stdout(&refused)), (1, ""));
    assert!(
        stderr(&refused).starts_with("/schemas/a.json#/$ref: `none.json` is not in the bundle"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(fs::read_to_string(old).unwrap(), "as it was");
    assert_eq!(fs::read_dir(directory.path().join("out")).unwrap().count(), 1);
    // Looking at them is allowed.
    let shown = here(&["bundle"]);
    assert!(code(&shown) == 0 && stderr(&shown).contains("cannot be published"), "{}", stderr(&shown));

    for (option, value) in [("--git-sha", "abc"), ("--timestamp", "yesterday")] {
        let output = here(&["bundle", "--output-dir", "out", option, value]);
        assert!(code(&output) != 0 && stderr(&output).contains(option), "{}", stderr(&output));
    }
}
