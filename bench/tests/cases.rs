//! Every case with tiny sizes: what a report looks like, and that the work behind it was done. Never a time.

#![expect(clippy::unwrap_used, reason = "a test may fail where it reads what it expects")]

use std::process::Command;

use serde_json::Value;

/// Runs a case to its end and reads its report.
fn report(arguments: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(arguments).args(["--rounds", "1", "--output", "json"]).arg("--directory").arg(directory.path());
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} ended with {}: {errors}", output.status);
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{arguments:?} left {left:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {errors}"))
}

/// Every number of every way was measured, and every ratio follows from them.
fn is_whole(report: &Value, case: &str) {
    assert_eq!(report["case"], case);
    assert!(report["settings"].as_object().is_some_and(|settings| !settings.is_empty()), "{report}");
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 2, "{report}");
    for row in rows {
        let numbers = ["min", "median", "p99", "max"].map(|name| row[name].as_f64().unwrap());
        assert!(numbers.is_sorted() && numbers[0] >= 0.0, "{row}");
        assert!(row["what"].is_string() && row["unit"].is_string(), "{row}");
    }
    for ratio in report["ratios"].as_array().unwrap() {
        assert!(ratio["value"].as_f64().is_some_and(f64::is_finite), "{ratio}");
        assert_eq!(ratio["limit"].is_null(), ratio["met"].is_null(), "{ratio}");
    }
}

/// A number that the case counted or checked.
fn fact(report: &Value, what: &str) -> u64 {
    let facts = report["facts"].as_array().unwrap();
    let found = facts.iter().find(|fact| fact["what"].as_str().is_some_and(|text| text.contains(what)));
    found.and_then(|fact| fact["value"].as_u64()).unwrap_or_else(|| panic!("nothing about `{what}`: {report}"))
}

/// How many times something was measured, and its median.
fn row(report: &Value, what: &str) -> (u64, f64) {
    let rows = report["rows"].as_array().unwrap();
    let found = rows.iter().find(|row| row["what"].as_str().is_some_and(|text| text.contains(what)));
    let found = found.unwrap_or_else(|| panic!("no row `{what}`: {report}"));
    (found["samples"].as_u64().unwrap(), found["median"].as_f64().unwrap())
}

#[test]
fn replay_folds_every_event() {
    let report = report(&["replay", "--events", "5000", "--nodes", "20"]);
    is_whole(&report, "replay");
    // With the log's first event.
    assert_eq!(fact(&report, "events replayed and folded"), 5001);
    assert_eq!(fact(&report, "nodes in the fold"), 20);
}

/// The command is the `demonctl` beside this package's program: `cargo test --workspace` builds both.
#[test]
fn the_fleets_status_equals_the_whole_fold() {
    let report = report(&["fleet-status", "--nodes", "150", "--releases", "2"]);
    is_whole(&report, "fleet-status");
    assert_eq!(fact(&report, "rows, equal in both answers"), 150);
    assert_eq!(fact(&report, "wrong or outdated entries of the table"), 2);
    assert_eq!(fact(&report, "events in the log"), 902);
}

#[test]
fn a_release_reaches_every_agent_and_every_bare_client() {
    let report = report(&["fleet", "--nodes", "3", "--change", "full"]);
    is_whole(&report, "fleet");
    assert_eq!(fact(&report, "nodes switched in every round"), 3);
    assert_eq!(fact(&report, "consumers on the server"), 0);
    assert_eq!(row(&report, "announced → switched").0, 3);
    let (nodes, bytes) = row(&report, "bytes read by a node");
    assert!(nodes == 3 && bytes > 4096.0, "{report}");
}

#[test]
fn three_servers_carry_a_fleet_too() {
    let report = report(&["fleet", "--nodes", "2", "--server", "cluster", "--without-naive"]);
    is_whole(&report, "fleet");
    assert_eq!(fact(&report, "nodes switched in every round"), 2);
    assert!(!report["rows"].to_string().contains("naive"), "{report}");
}

#[test]
fn one_node_switches_beside_a_long_poller() {
    let report = report(&["one"]);
    is_whole(&report, "one");
    assert_eq!(fact(&report, "switches seen on the node's disk"), 1);
    assert_eq!(fact(&report, "releases kept by the long poller"), 1);
}

#[test]
fn a_flip_needs_no_fetch() {
    let report = report(&["flip", "--nodes", "3", "--prefetch", "100ms"]);
    is_whole(&report, "flip");
    assert_eq!(fact(&report, "switches out of the cache"), 6);
}

#[test]
fn a_fleet_comes_back_after_a_restart() {
    let report = report(&["reconnect", "--nodes", "3"]);
    is_whole(&report, "reconnect");
    assert_eq!(fact(&report, "nodes that came back"), 3);
    assert_eq!(fact(&report, "consumers on the server"), 0);
}

#[test]
fn an_object_is_put_and_a_release_fetched() {
    let put = report(&["put", "--megabytes", "2"]);
    is_whole(&put, "put");
    assert_eq!(fact(&put, "objects with the digest of the file"), 1);
    let fetched = report(&["fetch", "--files", "4", "--file-bytes", "5000"]);
    is_whole(&fetched, "fetch");
    assert_eq!(fact(&fetched, "bytes of the tree"), 20_000);
}

#[test]
fn growth_is_measured_size_by_size() {
    let files = report(&["growth", "--of", "files", "--sizes", "2,20"]);
    is_whole(&files, "growth");
    assert_eq!(row(&files, "20 files: fetch, verify, unpack, switch").0, 1);
    let releases = report(&["growth", "--of", "releases", "--sizes", "1,3"]);
    is_whole(&releases, "growth");
    assert_eq!(releases["ratios"].as_array().unwrap().len(), 3, "{releases}");
}

#[test]
fn an_archive_is_read_together() {
    let report = report(&["multicast", "--nodes", "6", "--megabytes", "3", "--readers", "3"]);
    is_whole(&report, "multicast");
    assert_eq!(fact(&report, "nodes with the announced digest"), 6);
    assert_eq!(fact(&report, "connections that were cut"), 0);
    assert_eq!(fact(&report, "consumers on the server"), 0);
    let rows = report["rows"].as_array().unwrap();
    let by_others = rows.iter().find(|row| row["what"].as_str().is_some_and(|what| what.contains("others' asking")));
    assert!(by_others.and_then(|row| row["max"].as_f64()).is_some_and(|most| most > 0.0), "{report}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_idle_agent_is_alive() {
    let report = report(&["idle", "--watched", "3s"]);
    is_whole(&report, "idle");
    assert!(row(&report, "messages it sends").1 > 0.0, "{report}");
}

#[test]
fn the_help_names_every_case_and_the_hidden_commands_stay_hidden() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let cases = ["replay", "fleet-status", "one", "fleet", "flip", "reconnect", "put", "fetch", "delta", "multicast"];
    for case in cases.into_iter().chain(["idle", "growth"]) {
        assert!(text.contains(&format!("  {case} ")), "{case}: {text}");
    }
    assert!(!text.contains("supervise"), "{text}");
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(["replay", "--events", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a size that cannot be measured is wrong usage");
}
