//! Releases whose announced objects are hostile: every digest is right, the content is not. No command lets a byte of
//! them become visible.

use std::fs;
use std::io::Write as _;

use acceptance::handmade_release::{HandmadeRelease, release_of};
use acceptance::shell::Shell;
use acceptance::world::World;
use shared::archive::write_archive;
use shared::release::Release;
use streams::release_store::ReleaseStore;

const FILES: [(&str, &str); 2] = [("a.json", "{}"), ("deep/er/b.wasm", "wasm")];

/// One entry of a tar archive, written by hand: no library would write some of these.
struct Entry<'a> {
    path: &'a str,
    kind: u8,
    link: &'a str,
    content: &'a [u8],
}

fn file<'a>(path: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry { path, kind: b'0', link: "", content }
}

fn link<'a>(path: &'a str, kind: u8, target: &'a str) -> Entry<'a> {
    Entry { path, kind, link: target, content: b"" }
}

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, entry.path.as_bytes());
        put(100, b"0000644\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", entry.content.len()).as_bytes());
        put(136, b"00000000001\0");
        put(148, b"        ");
        put(156, &[entry.kind]);
        put(157, entry.link.as_bytes());
        put(257, b"ustar  \0");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(entry.content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A zstd frame that holds the bytes as they are, and needs no compressor.
fn raw_zstd(content: &[u8]) -> Vec<u8> {
    // Magic number, no content size, a window of 8 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68];
    let mut blocks = content.chunks(100_000).peekable();
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let header = (u32::try_from(block.len()).expect("a block is small") << 3) | last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

/// A zstd frame of this many zeros, 128 KiB in four bytes.
fn zstd_bomb(megabytes: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68];
    let blocks = megabytes * 8;
    for block in 0..blocks {
        let (run_length, last) = (1_u32 << 1, u32::from(block + 1 == blocks));
        let header = (131_072_u32 << 3) | run_length | last;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    FILES.iter().map(|(path, content)| (*path, content.as_bytes().to_vec())).collect()
}

fn release(tag: &str) -> Release {
    release_of("policies", tag, &files())
}

fn honest_archive(release: &Release) -> Vec<u8> {
    let content = |path: &str| FILES.iter().find(|(name, _)| *name == path).map(|(_, content)| content.as_bytes());
    write_archive(release, |file| Ok(content(file.path.as_str()).unwrap_or_default()), Vec::new()).expect("written")
}

/// Archives that are not what their `release.json` says.
fn archives() -> Vec<(&'static str, Vec<u8>)> {
    let [a, b] = FILES.map(|(path, content)| file(path, content.as_bytes()));
    let mut cut = honest_archive(&release("cut"));
    cut.truncate(cut.len() / 2);
    let packed = |entries: &[Entry<'_>]| raw_zstd(&tar(entries));
    vec![
        ("empty", Vec::new()),
        ("no-zstd", b"PK\x03\x04 not an archive of ours".to_vec()),
        ("cut", cut),
        ("bomb", zstd_bomb(2048)),
        ("traversal", packed(&[file("../../escaped", b"{}"), file("deep/er/b.wasm", b"wasm")])),
        ("absolute", packed(&[file("/tmp/escaped", b"{}"), file("deep/er/b.wasm", b"wasm")])),
        ("symlink", packed(&[link("a.json", b'2', "/etc/passwd"), file("deep/er/b.wasm", b"wasm")])),
        ("hardlink", packed(&[link("a.json", b'1', "/etc/passwd"), file("deep/er/b.wasm", b"wasm")])),
        ("device", packed(&[link("a.json", b'3', ""), file("deep/er/b.wasm", b"wasm")])),
        ("pipe", packed(&[link("a.json", b'6', ""), file("deep/er/b.wasm", b"wasm")])),
        ("linked-directory", packed(&[link("deep", b'2', "/tmp"), file("deep/er/b.wasm", b"wasm")])),
        ("twice", packed(&[file("a.json", b"{}"), file("a.json", b"{}"), file("deep/er/b.wasm", b"wasm")])),
        ("order", packed(&[b, a])),
        ("missing", packed(&[file("a.json", b"{}")])),
        ("added", packed(&[file("a.json", b"{}"), file("deep/er/b.wasm", b"wasm"), file("z", b"")])),
        ("other-content", packed(&[file("a.json", b"[]"), file("deep/er/b.wasm", b"wasm")])),
        ("longer", packed(&[file("a.json", &[b' '; 5000]), file("deep/er/b.wasm", b"wasm")])),
        ("other-case", packed(&[file("A.json", b"{}"), file("deep/er/b.wasm", b"wasm")])),
    ]
}

/// Descriptions that no release can have.
fn descriptions() -> Vec<(&'static str, String)> {
    let honest = |tag: &str| {
        let json = release(tag).to_json().expect("a release has a JSON form");
        String::from_utf8(json).expect("JSON is text")
    };
    let with = |tag: &'static str, from: &str, to: &str| (tag, honest(tag).replace(from, to));
    vec![
        ("json-empty", String::new()),
        ("json-nested", "[".repeat(100_000)),
        with("json-traversal", "a.json", "../a.json"),
        with("json-absolute", "a.json", "/a.json"),
        with("json-case", "deep/er/b.wasm", "A.JSON"),
        with("json-prefix", "deep/er/b.wasm", "a.json/b"),
        with("json-huge", "\"size\":2", "\"size\":9223372036854775807"),
        with("json-mode", "0644", "4755"),
        with("json-other-tag", "json-other-tag", "another-tag"),
        with("json-format", "\"format\":1", "\"format\":2"),
        with("json-spaces", "{\"bundle\"", "{ \"bundle\""),
        with("json-backslash", "a.json", "a\\\\b.json"),
    ]
}

#[tokio::test]
async fn no_byte_of_a_hostile_release_becomes_visible() {
    let world = World::start(&[]).await;
    let (log, store) = (world.log().await, ReleaseStore::new(world.operator().await));
    let shell = Shell::new(&world.subdirectory("work"), &world.demonctl());
    let good = HandmadeRelease::stored(&store, "policies", "good", &files()).await;
    good.announced(&log).await;
    let mut tags = Vec::new();
    for (tag, archive) in archives() {
        let described = release(tag).to_json().expect("a release has a JSON form");
        HandmadeRelease::of_objects(&store, release(tag), &archive, &described).await.only_announced(&log).await;
        tags.push(tag);
    }
    for (tag, description) in descriptions() {
        let archive = honest_archive(&release(tag));
        let made = HandmadeRelease::of_objects(&store, release(tag), &archive, description.as_bytes()).await;
        made.only_announced(&log).await;
        tags.push(tag);
    }
    shell.types("mkdir cache && demonctl bundle fetch --bundle policies --dest plain && mkdir cache/releases").await;
    shell.types("demonctl bundle fetch --bundle policies --dest cache").await;
    let before = shell.types("find plain cache -not -path 'cache/staging*' | sort").await;
    for tag in tags {
        for dest in ["plain", "new", "cache"] {
            let said =
                shell.fails(&format!("demonctl bundle fetch --bundle policies --tag {tag} --dest {dest}"), 1).await;
            assert_eq!(said.lines().count(), 1, "{tag}: {said}");
            assert!(said.contains(tag) && said.contains("release"), "{tag}: {said}");
        }
        assert!(!shell.directory().join("new").exists(), "{tag}");
    }
    assert_eq!(shell.types("find plain cache -not -path 'cache/staging*' | sort").await, before);
    assert_eq!(shell.types("ls -A cache/staging; ls -A").await, "cache\ncache.lock\nplain\n");

    // What stands behind the last file is not even unpacked.
    let mut trailing = honest_archive(&release("trailing"));
    trailing.write_all(&zstd_bomb(2048)).expect("memory");
    let described = release("trailing").to_json().expect("a release has a JSON form");
    HandmadeRelease::of_objects(&store, release("trailing"), &trailing, &described).await.only_announced(&log).await;
    shell.types("demonctl bundle fetch --bundle policies --tag trailing --dest new && diff -r plain new").await;
    assert!(!fs::exists("/tmp/escaped").expect("/tmp can be read"));
}
