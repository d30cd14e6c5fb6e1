//! No step of the agent that changes the disk lacks a named place beside it.
//!
//! A look at the sources: a function that calls something which changes the file system also reaches a crash point, or
//! stands in the list below with its reason. It cannot tell whether the place is well chosen; it notices new steps.

use std::fs;
use std::path::{Path, PathBuf};

/// What changes the file system, as it is written.
const CHANGES: [&str; 15] = [
    "fs::rename(",
    "renameat_with(",
    "symlink(",
    "hard_link(",
    "fs::copy(",
    "fs::write(",
    "fs::remove_",
    "fs::create_dir",
    "DirBuilder::new()",
    "create_new(true)",
    ".create(true)",
    "File::create(",
    ".write_all(",
    ".sync_all(",
    "set_modified(",
];

/// Sources of what an agent does to the disk: all of the subscriber, and the writer and outbox of `streams`.
const SOURCES: [&str; 6] = [
    "subscriber/src",
    "streams/src/alternating_file.rs",
    "streams/src/durable_file.rs",
    "streams/src/event_writer.rs",
    "streams/src/event_writer",
    "streams/src/outbox",
];

/// Functions without a place of their own.
const WITHOUT: [(&str, &str, &str); 19] = [
    ("streams/src/alternating_file.rs", "open_spare", "what it removes or makes means nothing until it is renamed"),
    ("streams/src/durable_file.rs", "remove", "what an earlier version left, after it was taken over durably"),
    ("subscriber/src/agent_presence.rs", "*", "tells other programs who holds the lock; nothing depends on it"),
    ("subscriber/src/checkout", "*", "puts releases into directories for people, in a command and not in an agent"),
    ("subscriber/src/test_releases.rs", "*", "tests only"),
    ("subscriber/src/activation/many_switches.rs", "*", "tests only"),
    ("subscriber/src/file_watch.rs", "*", "tests only"),
    ("subscriber/src/tamper/restore.rs", "read", "writes what it reads to a file of a tree on its way"),
    (
        "subscriber/src/staging/patching.rs",
        "remove_step",
        "a tree of no use any more; left, it goes with its directory",
    ),
    ("subscriber/src/staging/tree_writer.rs", "remove_file", "takes back an empty file right after its place"),
    ("subscriber/src/entry_point.rs", "say", "standard output"),
    ("subscriber/src/durable_file.rs", "sync_directory", "its callers reach a place before and after it"),
    ("subscriber/src/durable_file.rs", "remove_file_if_present", "its callers reach a place after it"),
    ("subscriber/src/cache.rs", "try_lock", "an empty file that means nothing without its holder"),
    ("subscriber/src/cache.rs", "create_directory", "its caller reaches a place after it"),
    ("subscriber/src/staging/leftovers.rs", "touch", "one time stamp; its callers reach a place"),
    ("subscriber/src/staging/tree_writer.rs", "write_beside", "creates through `open_new`, synced with the tree"),
    ("streams/src/durable_file.rs", "create_private_directory", "an empty directory; made again where it is missing"),
    ("streams/src/durable_file.rs", "sync_parent", "its callers reach a place before it"),
];

#[test]
fn every_step_that_changes_the_disk_has_a_named_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace");
    let (mut bare, mut placed) = (Vec::new(), 0);
    for source in SOURCES.iter().flat_map(|source| sources_in(&root.join(source))) {
        let name = source.strip_prefix(root).expect("it lies below").display().to_string();
        let text = fs::read_to_string(&source).expect("a source can be read");
        let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for (function, body) in functions(product) {
            if !CHANGES.iter().any(|change| body.contains(change)) {
                continue;
            }
            let excused = |(file, excepted, _): &(&str, &str, &str)| {
                name.starts_with(file) && (*excepted == "*" || *excepted == function)
            };
            if body.contains(".reach()") {
                placed += 1;
            } else if !WITHOUT.iter().any(excused) {
                bare.push(format!("{name}: {function}"));
            }
        }
    }
    assert!(placed > 12, "the look at the sources finds only {placed} functions: it looks for the wrong words");
    assert!(
        bare.is_empty(),
        "these change the disk and reach no crash point (`shared::daemon::crash_point`): {bare:#?}"
    );
}

/// The functions of a source with their text, each up to the next.
fn functions(source: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
        if let Some(name) = function_name(line) {
            found.push((name, String::new()));
        }
        if let Some((_, body)) = found.last_mut() {
            body.push_str(line);
            body.push('\n');
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let only_words = before
        .trim()
        .split(' ')
        .all(|word| matches!(word, "" | "pub" | "async" | "const" | "pub(crate)" | "pub(super)"));
    let name: String = after.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    (only_words && !name.is_empty()).then_some(name)
}

fn sources_in(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("`{}`: {error}", path.display()));
    let mut found: Vec<PathBuf> = entries.flatten().flat_map(|entry| sources_in(&entry.path())).collect();
    found.retain(|file| file.extension().is_some_and(|extension| extension == "rs") && !file.ends_with("tests.rs"));
    found
}
