//! What the system stores, read by a program that shares nothing with it: nats-py, tarfile, zstandard, hashlib.
//!
//! `tests/python/read_everything.py` knows the bucket, the archives, `release.json` and the hash chains from their
//! description only. Where the two disagree, one of them has left the description.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use acceptance::sample_trees::{change_one_contract, contracts, plain};
use acceptance::stored_log::{EVENT_STREAM, event_log, of_node};
use acceptance::waiting::{PATIENCE, eventually, satisfied};
use acceptance::world::{World, both_outputs, finished, succeeded};
use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use streams::release_store::{ReleaseStore, Tampering};

/// The interpreter, as it is found on PATH.
const PYTHON: &str = "python3";

/// Where tools are kept that tests download: the same place as the pinned server's.
fn tool_cache() -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("DEMON_TOOL_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("demon/tools")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/demon/tools")))
        .expect("DEMON_TOOL_CACHE or HOME is set")
}

fn python_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)
}

/// The directory with the pinned Python packages, installed into the cache where it does not have them. Blocks.
///
/// Several test processes may want it at once: a file lock lets one work, and a rename makes the result appear whole.
/// The error is the one line that a person needs.
fn installed_packages(python: &str, cache: &Path) -> Result<PathBuf, String> {
    let requirements = python_file("requirements.txt");
    // Compiled packages fit one version of Python on one kind of machine.
    let mut version = Command::new(python);
    version.args(["-c", "import sys, sysconfig; print(sys.version, sysconfig.get_platform())"]);
    let version = ran(python, &mut version)?.stdout;
    let failed = |error: io::Error| format!("the tool cache `{}` cannot be used: {error}", cache.display());
    let text = fs::read(&requirements).expect("the repository has the requirements");
    let name = format!("python-{}", &Sha256Digest::of(&[text, version].concat()).to_string()[..16]);

    let directory = cache.join(&name);
    if directory.is_dir() {
        return Ok(directory);
    }
    fs::create_dir_all(cache).map_err(failed)?;
    let lock = File::create(cache.join(format!("{name}.lock"))).map_err(failed)?;
    lock.lock().map_err(failed)?;
    // Whoever held the lock before may have done the work.
    if directory.is_dir() {
        return Ok(directory);
    }
    // In the cache, so that the rename stays on one file system; removed on the way out where it is still there.
    let work = tempfile::Builder::new().prefix("python-work-").tempdir_in(cache).map_err(failed)?;
    let target = work.path().join("packages");
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    pip.args(["--require-hashes", "--only-binary", ":all:", "--no-deps", "--timeout", "15", "--retries", "2"]);
    pip.arg("--target").arg(&target).arg("-r").arg(&requirements);
    ran(python, &mut pip)?;
    fs::rename(&target, &directory).map_err(failed)?;
    Ok(directory)
}

fn ran(python: &str, command: &mut Command) -> Result<Output, String> {
    const NEEDED: &str = "reading releases with Python needs python3 (3.9 or newer) with pip";
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{NEEDED}: `{python}`: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("{NEEDED}: {reason}"))
}

/// One release that the Python program is to find, with the directory it was made from.
struct Wanted<'a> {
    bundle: &'a str,
    tag: &'a str,
    kind: &'a str,
    source: &'a Path,
}

/// Lets the Python program read everything and compare it with what was published.
async fn read_everything(world: &World, wanted: &[Wanted<'_>]) -> Output {
    let packages = tokio::task::spawn_blocking(|| installed_packages(PYTHON, &tool_cache()));
    let packages = packages.await.expect("the installation does not panic").unwrap_or_else(|line| panic!("{line}"));
    let login = world.operator_login();
    let releases: Vec<Value> = wanted
        .iter()
        .map(|wanted| json!({"bundle": wanted.bundle, "tag": wanted.tag, "kind": wanted.kind, "source": wanted.source}))
        .collect();
    let expected = json!({"url": login.url, "user": login.user, "password": login.password, "releases": releases});
    let file = world.directory().join("expected.json");
    fs::write(&file, expected.to_string()).expect("the directory is writable");

    let mut command = Command::new(PYTHON);
    command.arg(python_file("read_everything.py")).arg(file);
    // Nothing is written beside the packages, and file names are UTF-8 whatever the locale says.
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUTF8", "1");
    finished(command).await
}

async fn publish(world: &World, bundle: &str, tag: &str, source: &Path) {
    let mut command = world.publisher();
    command.args(["--bundle", bundle, "--tag", tag]).arg("--source").arg(source);
    succeeded(command).await;
}

/// A plain directory with all that a tar archive finds hard.
fn plain_directory(world: &World) -> PathBuf {
    let root = plain(world.directory());
    // Longer than the old tar header's 100 bytes for a name, and than the 255 with its prefix.
    let long = ["a-rather-long-name-of-a-directory-that-goes-on-and-on"; 6].join("/");
    let long = root.join(long).join("file-at-the-end.txt");
    fs::create_dir_all(long.parent().expect("it has a parent")).expect("the directory is writable");
    fs::write(&long, "far down\n").expect("the directory is writable");
    let mode = |path: &str| fs::metadata(root.join(path)).expect("the sample has it").permissions().mode();
    assert_ne!(mode("bin/check") & 0o100, 0, "the sample has an executable");
    assert_eq!(fs::read(root.join("empty")).expect("the sample has it"), b"", "the sample has an empty file");
    root
}

/// Contracts of every kind that the exporter knows.
fn contracts_directory(world: &World, name: &str) -> PathBuf {
    let root = contracts(&world.subdirectory(name));
    let interfaces = root.join("api-contracts");
    fs::create_dir_all(&interfaces).expect("the directory is writable");
    fs::write(interfaces.join("operate.yaml"), "openapi: 3.1.0\ninfo: {title: \"B\u{fc}ndel\"}\n")
        .expect("the directory is writable");
    root
}

#[tokio::test]
async fn python_reads_every_release_and_the_whole_log_and_finds_what_was_published() {
    let world = World::start(&["n1"]).await;
    let mut agent = world.start_agent("n1");
    let [first, second, policies] =
        [contracts_directory(&world, "first"), contracts_directory(&world, "second"), plain_directory(&world)];
    change_one_contract(&second, "changed");
    publish(&world, "contracts", "first", &first).await;
    agent.switched_to("first").await;
    publish(&world, "contracts", "second", &second).await;
    agent.switched_to("second").await;
    publish(&world, "policies", "policies-1.0", &policies).await;
    let operator = world.raw_operator().await;
    eventually("the agent's last event", PATIENCE, async || {
        let loaded = of_node(&event_log(&operator).await, "bundle.loaded", "n1").len();
        satisfied(loaded == 2, || format!("{loaded} switches in the log"))
    })
    .await;

    let of_contracts = |tag, source| Wanted { bundle: "contracts", tag, kind: "contracts", source };
    let plain = Wanted { bundle: "policies", tag: "policies-1.0", kind: "directory", source: &policies };
    let wanted = [of_contracts("first", first.as_path()), of_contracts("second", &second), plain];
    let output = read_everything(&world, &wanted).await;
    assert!(output.status.success(), "{}", both_outputs(&output));

    // It has not agreed by looking away.
    let read: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    assert_eq!(read["events"], operator.stream_state(EVENT_STREAM).await.last_sequence);
    let releases = read["releases"].as_array().expect("a list");
    let files: Vec<_> = releases.iter().map(|release| (&release["tag"], &release["files"])).collect();
    let tags = ["first", "second", "policies-1.0"].map(Value::from);
    let counts = [3, 3, 7].map(Value::from);
    assert_eq!(files, tags.iter().zip(&counts).collect::<Vec<_>>());
    let chains = read["chains"].as_object().expect("an object");
    let lengths = |source: &str| -> Vec<&Value> {
        let of_source = |(writer, _): &(&String, _)| writer.starts_with(&format!("{source} "));
        chains.iter().filter(of_source).map(|(_, length)| length).collect()
    };
    // Three processes of one publisher went on with one chain: a release and a move of the channel each.
    assert_eq!(lengths("/publishers/main"), [6], "{read}");
    assert_eq!(lengths("/nodes/n1"), [6], "{read}");
    let objects = ["contracts/first", "contracts/second", "policies/policies-1.0"];
    let mut objects: Vec<_> =
        objects.iter().flat_map(|name| [format!("{name}.release.json"), format!("{name}.tar.zst")]).collect();
    objects.push("contracts/second.from.first.delta".to_owned());
    objects.sort();
    assert_eq!(read["objects"], json!(objects));
}

#[tokio::test]
async fn python_notices_an_altered_archive_and_an_altered_source() {
    let world = World::start(&[]).await;
    let source = plain(world.directory());
    publish(&world, "policies", "one", &source).await;
    let wanted = [Wanted { bundle: "policies", tag: "one", kind: "directory", source: &source }];

    let policy = source.join("policy.rego");
    let text = fs::read(&policy).expect("the sample has it");
    fs::write(&policy, "package other\n").expect("the directory is writable");
    difference(&read_everything(&world, &wanted).await, "published directory: expected ");

    fs::write(&policy, text).expect("the directory is writable");
    let store = ReleaseStore::new(world.operator().await);
    store.tamper("policies/one.tar.zst", Tampering::RecomputeMeta).await.expect("altered");
    difference(&read_everything(&world, &wanted).await, "SHA-256 of `policies/one.tar.zst`: expected ");
}

/// The program ended with the one line that names this difference.
fn difference(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("read_everything.py: {words}")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_missing_python_or_pip_is_told_in_one_line() {
    let cache = tempfile::tempdir().expect("a directory");
    let line = installed_packages("/nowhere/python3", cache.path()).expect_err("there is none");
    assert!(line.contains("needs python3 (3.9 or newer) with pip: `/nowhere/python3`: "), "{line}");

    let without_pip = cache.path().join("python3");
    let script =
        "#!/bin/sh\n[ \"$1\" = -c ] && exit 0\necho warning >&2\necho \"$0: No module named pip\" >&2\nexit 1\n";
    // Written by another process: what this one writes cannot be run while some thread is starting a program.
    let mut written = Command::new("sh");
    written.args(["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""]).arg(&without_pip).arg(script);
    assert!(written.status().expect("sh runs").success());
    let program = without_pip.to_str().expect("a path in UTF-8");
    let line = installed_packages(program, cache.path()).expect_err("it has no pip");
    assert!(line.ends_with("python3: No module named pip"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    let left: Vec<_> = fs::read_dir(cache.path()).expect("the directory").flatten().map(|entry| entry.path()).collect();
    assert_eq!(left.len(), 2, "only the program and the lock are left: {left:?}");
}
