//! Sources that make no release: each is refused in one line that names what is wrong, and nothing is stored or changed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use acceptance::publishing::{COMMIT, ServerContent, contracts_publish, document, refused};
use acceptance::sample_trees::{contracts, noise, plain};
use acceptance::world::{World, succeeded};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Files that a release may hold, and how large one may be.
const MOST_FILES: usize = 100_000;
const LARGEST_FILE: u64 = 1 << 30;

/// `demonctl bundle publish` of a directory as bundle `policies`.
fn bundle_publish(world: &World, source: &Path) -> Command {
    let mut command = world.demonctl();
    command.args(["bundle", "publish", "--bundle", "policies", "--actor", "ada", "--output", "json"]).arg(source);
    command
}

/// What is wrong with a tree, how it gets so, and what the complaint must say.
type Fault = (&'static str, fn(&Path), &'static [&'static str]);

const FAULTS: &[Fault] = &[
    (
        "a link out of it",
        |root| symlink("/etc/passwd", root.join("link")).expect("a link"),
        &["`link`", "symbolic link"],
    ),
    (
        "a link inside it",
        |root| symlink("policy.rego", root.join("link")).expect("a link"),
        &["`link`", "symbolic link"],
    ),
    (
        "a linked directory",
        |root| symlink("config", root.join("linked")).expect("a link"),
        &["`linked`", "symbolic link"],
    ),
    ("a link to nothing", |root| symlink("nowhere", root.join("link")).expect("a link"), &["`link`", "symbolic link"]),
    ("a backslash", |root| write(&root.join("a\\b"), b"x"), &["backslash"]),
    ("a way out for other systems", |root| write(&root.join("..\\..\\evil"), b"x"), &["backslash"]),
    ("a line break", |root| write(&root.join("a\nb"), b"x"), &["a\\nb", "control character"]),
    ("an escape", |root| write(&root.join("\u{1b}[2J"), b"x"), &["control character"]),
    (
        "names that differ in case",
        |root| ["Case.txt", "case.TXT"].iter().for_each(|name| write(&root.join(name), b"x")),
        &["ase."],
    ),
    ("no UTF-8", |root| write(&root.join(OsStr::from_bytes(b"bad-\xff")), b"x"), &["bad-", "not valid UTF-8"]),
    (
        "no UTF-8 in a directory",
        |root| write(&root.join(OsStr::from_bytes(b"dir-\xff")).join("file"), b"x"),
        &["dir-", "not valid UTF-8"],
    ),
    ("a socket", |root| drop(UnixListener::bind(root.join("socket")).expect("a socket")), &["`socket` is a socket"]),
    ("a pipe", |root| run("mkfifo", &root.join("pipe")), &["`pipe` is a named pipe"]),
    (
        "a file too large",
        |root| sparse(&root.join("large"), LARGEST_FILE + 1),
        &["file size in bytes", "1073741825", "`large`"],
    ),
    (
        "too much together",
        |root| (0..5).for_each(|number| sparse(&root.join(format!("large-{number}")), LARGEST_FILE)),
        &["total size in bytes"],
    ),
    (
        "a path too long",
        |root| write(&root.join(vec!["d".repeat(120); 5].join("/")).join("file"), b"x"),
        &["path length in bytes", "512"],
    ),
];

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("a path has a parent")).expect("the directory is writable");
    fs::write(path, content).expect("the directory is writable");
}

fn sparse(path: &Path, size: u64) {
    File::create(path).and_then(|file| file.set_len(size)).expect("the file system has sparse files");
}

fn run(program: &str, argument: &Path) {
    assert!(Command::new(program).arg(argument).status().expect("it starts").success());
}

#[tokio::test]
async fn a_tree_that_breaks_a_rule_is_refused_and_leaves_no_trace() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    // A release before, which has to survive it all.
    document(&succeeded(bundle_publish(&world, &plain(world.directory()))).await);
    let before = ServerContent::of(&operator).await;
    for (number, (what, make, words)) in FAULTS.iter().enumerate() {
        let source = plain(&world.subdirectory(&format!("fault-{number}")));
        make(&source);
        let complaint = refused(bundle_publish(&world, &source)).await;
        for word in *words {
            assert!(complaint.contains(word), "{what}: `{word}` is not in {complaint}");
        }
        assert!(!complaint.contains('\u{1b}'), "{what}: the terminal is written to: {complaint:?}");
        let mut preview = bundle_publish(&world, &source);
        preview.arg("--dry-run");
        assert_eq!(refused(preview).await, complaint, "{what}: a dry run says the same");
        assert_eq!(ServerContent::of(&operator).await, before, "{what}");
    }
}

#[tokio::test]
async fn a_source_that_is_none_is_refused_without_asking_the_server() {
    let world = World::unprovisioned(&[]).await;
    let empty = world.subdirectory("empty");
    let file = world.directory().join("file");
    write(&file, b"x");
    for (source, word) in
        [(world.directory().join("missing"), "cannot be opened"), (empty, "holds no files"), (file, "cannot be opened")]
    {
        let mut command = bundle_publish(&world, &source);
        // Nobody listens there: whoever asked would say so.
        command.env("NATS_URL", "nats://127.0.0.1:9");
        let complaint = refused(command).await;
        assert!(complaint.contains(word), "{}: {complaint}", source.display());
    }
}

#[tokio::test]
async fn too_many_files_are_refused_where_the_limit_is_passed() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let source = world.subdirectory("many");
    // The walk has to end at the limit, however many more there are.
    for number in 0..MOST_FILES + 500 {
        let path = source.join(number.to_string());
        File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let before = ServerContent::of(&operator).await;
    let complaint = refused(bundle_publish(&world, &source)).await;
    assert!(complaint.contains("number of files of 100001 exceeds the limit of 100000"), "{complaint}");
    assert_eq!(ServerContent::of(&operator).await, before);
    fs::remove_dir_all(&source).expect("it is ours");
}

#[tokio::test]
async fn contracts_that_make_no_bundle_are_refused() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let before = ServerContent::of(&operator).await;
    let faults: &[Fault] = &[
        (
            "two under one name",
            |root| write(&root.join("schemas/result-envelope.json"), b"{}"),
            &["result-envelope.json", "which another file has"],
        ),
        ("no JSON", |root| write(&root.join("schemas/a.json"), b"{"), &["`schemas/a.json` is not JSON"]),
        ("no text", |root| write(&root.join("wit/a.wit"), b"\xff"), &["`wit/a.wit` is not UTF-8 text"]),
        ("a link", |root| symlink("/etc/passwd", root.join("schemas/a.json")).expect("a link"), &["schemas/a.json"]),
        (
            "a key twice",
            |root| write(&root.join("schemas/a.json"), br#"{"type":"object","type":"string"}"#),
            &["a.json", "type"],
        ),
        ("no WIT", |root| write(&root.join("wit/a.wit"), b"package nonsense;"), &["a.wit", "names no package"]),
    ];
    for (number, (what, make, words)) in faults.iter().enumerate() {
        let source = contracts(&world.subdirectory(&format!("fault-{number}")));
        make(&source);
        let complaint = refused(contracts_publish(&world, &source, &[])).await;
        for word in *words {
            assert!(complaint.contains(word), "{what}: `{word}` is not in {complaint}");
        }
        assert_eq!(ServerContent::of(&operator).await, before, "{what}");
    }
    let nothing = world.subdirectory("nothing");
    write(&nothing.join("README.md"), b"no contracts");
    let complaint = refused(contracts_publish(&world, &nothing, &[])).await;
    assert!(complaint.contains("holds no contracts"), "{complaint}");
    assert_eq!(ServerContent::of(&operator).await, before);
}

#[tokio::test]
async fn options_that_no_release_could_carry_are_wrong_usage() {
    let world = World::unprovisioned(&[]).await;
    let source = contracts(world.directory());
    for options in [
        &["--tag", "../evil"][..],
        &["--tag", "a b"],
        &["--channel", "latest.>"],
        &["--git-sha", "HEAD"],
        &["--timestamp", "tomorrow"],
        &["--repository", "a\nb"],
        &["--reason", &"x".repeat(1001)],
    ] {
        let mut command = world.demonctl();
        command.args(["contracts", "publish", "--actor", "ada"]).args(options).arg(&source);
        let output = acceptance::world::finished(command).await;
        assert_eq!(output.status.code(), Some(2), "{options:?}: {}", acceptance::world::both_outputs(&output));
    }
}

#[tokio::test]
async fn a_source_that_changes_or_vanishes_meanwhile_is_refused() {
    let world = World::start(&[]).await;
    let operator = world.raw_operator().await;
    let before = ServerContent::of(&operator).await;
    let changes: &[Fault] = &[
        ("it vanishes", |root| fs::remove_dir_all(root).expect("it is ours"), &["could not be packed"]),
        ("a file changes", |root| write(&root.join("modules/filter.wasm"), &noise(700_000, 2)), &["changed"]),
        ("a file shrinks", |root| write(&root.join("modules/filter.wasm"), b"x"), &["changed"]),
        ("a file grows", |root| write(&root.join("empty"), b"x"), &["changed"]),
        (
            "a file becomes a link",
            |root| {
                fs::remove_file(root.join("policy.rego")).expect("it is ours");
                symlink("/etc/passwd", root.join("policy.rego")).expect("a link");
            },
            &["policy.rego", "could not be packed"],
        ),
    ];
    for (number, (what, change, words)) in changes.iter().enumerate() {
        let source = plain(&world.subdirectory(&format!("change-{number}")));
        let gate = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut command = bundle_publish(&world, &source);
        command.env("NATS_URL", format!("nats://{}", gate.local_addr().expect("a bound port")));
        let server = world.server.port();
        let meanwhile = async {
            // The source is read before the server is spoken to, and packed afterwards: it changes in between.
            let (mut client, _) = gate.accept().await.expect("the command connects");
            change(&source);
            let mut server = TcpStream::connect(("127.0.0.1", server)).await.expect("the server listens");
            // Ends with the command, however it closes the connection.
            let _ = copy_bidirectional(&mut client, &mut server).await;
        };
        let (complaint, ()) = tokio::join!(refused(command), meanwhile);
        for word in *words {
            assert!(complaint.contains(word), "{what}: `{word}` is not in {complaint}");
        }
        assert_eq!(ServerContent::of(&operator).await, before, "{what}");
    }
}

#[tokio::test]
async fn a_commit_of_forty_digits_is_needed_where_git_knows_none() {
    let world = World::start(&[]).await;
    let source = contracts(world.directory());
    let mut command = world.demonctl();
    command.args(["contracts", "publish", "--actor", "ada", "--repository", "acme/contracts"]).arg(&source);
    assert!(refused(command).await.contains("--git-sha"));
    let row = document(&succeeded(contracts_publish(&world, &source, &["--repository", "acme/contracts"])).await);
    assert_eq!((&row["git"]["sha"], &row["git"]["repository"]), (&COMMIT.into(), &"acme/contracts".into()));
}
