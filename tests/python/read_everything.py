"""Reads everything the system stores, with nothing of the system's own code.

Lists the bucket, downloads every archive with nats-py, checks its digest, unpacks it with Python's tarfile and the
zstandard bindings, compares every file with the directory that was published, recomputes every digest, and follows
every writer's hash chain through the stream. Rules are restated here from the design, on purpose: this program is the
second opinion.

Usage: read_everything.py EXPECTED.json

EXPECTED.json: {"url", "user", "password", "releases": [{"bundle", "tag", "kind": "directory" | "contracts", "source"}]}
Prints one JSON object with what was read. Any difference ends it with exit code 1 and one line that names it.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import pathlib
import re
import sys
import tarfile

import nats
import zstandard

STREAM = "BUNDLE_EVENTS"
BUCKET = "BUNDLES"
PATIENCE = 20


class Difference(Exception):
    """What was read is not what should be there."""


def same(what, expected, actual):
    if expected != actual:
        raise Difference(f"{what}: expected {expected!r}, read {actual!r}")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


async def read_stream(jetstream):
    """Every stored message in order, through an ordered consumer: what a reader of NATS projects would write."""
    info = await jetstream.stream_info(STREAM)
    subscription = await jetstream.subscribe("bundle.>", stream=STREAM, ordered_consumer=True)
    messages = []
    for _ in range(info.state.messages):
        message = await subscription.next_msg(timeout=PATIENCE)
        headers = message.headers or {}
        messages.append((message.metadata.sequence.stream, message.subject, headers, message.data))
    await subscription.unsubscribe()
    same("sequences of the stream", list(range(1, len(messages) + 1)), [message[0] for message in messages])
    return messages


def scope_id(scope, event):
    """The last token of an event's subject, from the event itself."""
    if scope == "node":
        return event["source"].removeprefix("/nodes/")
    if scope == "release":
        return event["data"]["tag"].replace(".", "%2E")
    return event["data"]["channel"] if scope == "channel" else STREAM


def check_event(sequence, subject, headers, payload):
    """One stored event: a CloudEvent whose id, type and content agree with where it is stored."""
    event = json.loads(payload)
    where = f"event {sequence}"
    same(f"{where} specversion", "1.0", event["specversion"])
    same(f"{where} message id", event["id"], headers.get("Nats-Msg-Id"))
    same(f"{where} content type", "application/cloudevents+json", headers.get("Content-Type"))
    tokens = subject.split(".")
    same(f"{where} tokens of its subject", 5, len(tokens))
    same(f"{where} type", "bundle." + tokens[1], event["type"])
    same(f"{where} schema", f"urn:demon:contracts:events.{event['type']}.v1.json", event["dataschema"])
    same(f"{where} id in its subject", scope_id(tokens[3], event), tokens[4])
    return event


def check_chains(events):
    """Recomputes every writer's sequence numbers and hash chain over the stored bytes."""
    chains = {}
    written = {}
    for sequence, event, payload in events:
        chain = chains.setdefault((event["source"], event["incarnation"]), [])
        earlier = written.setdefault(event["source"], set())
        named = event.get("prevhash")
        if chain:
            same(f"event {sequence} prevhash", chain[-1], named)
        elif named is not None and named not in earlier:
            raise Difference(f"event {sequence} names {named!r}, which its source never wrote")
        same(f"event {sequence} sequence in its incarnation", f"{len(chain) + 1:010}", event["sequence"])
        chain.append(sha256(payload))
        earlier.add(chain[-1])
    return {f"{source} {incarnation}": len(chain) for (source, incarnation), chain in chains.items()}


def unpack(archive):
    """The archive's files, in its order, as Python's own tar reader sees them."""
    files = []
    frame = zstandard.ZstdDecompressor().decompressobj()
    plain = frame.decompress(archive)
    same("whether the archive is one whole zstd frame", (True, b""), (frame.eof, frame.unused_data))
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
        for entry in tar:
            if not entry.isreg():
                raise Difference(f"the archive holds `{entry.name}`, which is no regular file")
            same(f"owner of `{entry.name}`", (0, 0), (entry.uid, entry.gid))
            files.append((entry.name, f"{entry.mode:04o}", tar.extractfile(entry).read()))
    return files


def published_directory(source):
    """The files of a plain directory as a release holds them."""
    root = pathlib.Path(source)
    files = []
    for path in (path for path in root.rglob("*") if path.is_file()):
        mode = "0755" if os.stat(path).st_mode & 0o100 else "0644"
        files.append((path.relative_to(root).as_posix(), mode, path.read_bytes()))
    return files


def contracts_bundle(source):
    """bundle.json of a contracts directory, byte for byte."""
    root = pathlib.Path(source)

    def texts(folder, *suffixes):
        directory = root / folder
        if not directory.is_dir():
            return {}
        return {path.name: path.read_text("utf-8") for path in directory.iterdir() if path.suffix in suffixes}

    schemas = texts("schemas", ".json")
    schemas["result-envelope.json"] = (root / "envelopes" / "result.json").read_text("utf-8")
    value = {
        "version": "1.0.0",
        "schemas": schemas,
        "apiContracts": texts("api-contracts", ".yaml", ".yml"),
        "wit": texts("wit", ".wit"),
    }
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def check_contracts(files, source, content_digest):
    """A contracts release is exactly three files that agree with each other and with the directory."""
    by_name = {name: content for name, _, content in files}
    same("files of the contracts release", ["bundle.json", "bundle.sha256", "manifest.json"], sorted(by_name))
    expected = contracts_bundle(source)
    same("schemas in bundle.json", json.loads(expected)["schemas"], json.loads(by_name["bundle.json"])["schemas"])
    same("WIT in bundle.json", json.loads(expected)["wit"], json.loads(by_name["bundle.json"])["wit"])
    digest = sha256(by_name["bundle.json"])
    same("SHA-256 of bundle.json", sha256(expected), digest)
    same("bundle.sha256", f"{digest}  bundle.json\n".encode(), by_name["bundle.sha256"])
    manifest = json.loads(by_name["manifest.json"])
    same("bundle_sha256 of manifest.json", digest, manifest["bundle_sha256"])
    same("version of manifest.json", "1.0.0", manifest["version"])
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", manifest["timestamp"]):
        raise Difference(f"timestamp of manifest.json is {manifest['timestamp']!r}")
    if not re.fullmatch(r"[a-f0-9]{40}", manifest["git"]["sha"]):
        raise Difference(f"git.sha of manifest.json is {manifest['git']['sha']!r}")
    same("content digest", digest, content_digest)


async def download(bucket, reference):
    """An object through the client library, checked against its meta and against the event that names it."""
    info = await bucket.get_info(reference["name"])
    kind, _, encoded = info.digest.partition("=")
    same(f"digest kind of `{reference['name']}`", "SHA-256", kind)
    data = (await bucket.get(reference["name"])).data
    same(f"size of `{reference['name']}`", reference["size"], len(data))
    same(f"SHA-256 of `{reference['name']}`", reference["sha256"], sha256(data))
    same(f"digest in the meta of `{reference['name']}`", sha256(data), base64.urlsafe_b64decode(encoded).hex())
    same(f"size in the meta of `{reference['name']}`", len(data), info.size)
    return data


async def check_release(bucket, wanted, events):
    """One release: its announcement, its objects, its files."""
    announcements = [
        event["data"]
        for _, event, _ in events
        if event["type"] == "bundle.published"
        and (event["data"]["bundle"], event["data"]["tag"]) == (wanted["bundle"], wanted["tag"])
    ]
    same(f"announcements of {wanted['bundle']} {wanted['tag']}", 1, len(announcements))
    published = announcements[0]

    description = await download(bucket, published["release"])
    release = json.loads(description)
    same("release.json in its canonical form", canonical(release), description)
    same("bundle and tag in release.json", (wanted["bundle"], wanted["tag"]), (release["bundle"], release["tag"]))
    same("tree digest over release.json's files", sha256(canonical(release["files"])), release["tree_digest"])
    same("tree digest that was announced", release["tree_digest"], published["tree_digest"])
    same("content digest that was announced", release["content_digest"], published["content_digest"])

    files = unpack(await download(bucket, published["archive"]))
    listed = [{"path": name, "mode": mode, "size": len(data), "sha256": sha256(data)} for name, mode, data in files]
    same("files of the archive", release["files"], listed)
    same("number of files that was announced", len(files), published["files"])
    same("bytes that were announced", sum(len(data) for _, _, data in files), published["total_bytes"])
    if wanted["kind"] == "contracts":
        check_contracts(files, wanted["source"], published["content_digest"])
    else:
        published_files = published_directory(wanted["source"])
        source, read = ({(name, mode, sha256(data)) for name, mode, data in each} for each in (published_files, files))
        same("published directory", sorted(source - read), sorted(read - source))
        same("content digest of a plain directory", release["tree_digest"], published["content_digest"])
    return {"tag": wanted["tag"], "files": len(files), "tree_digest": release["tree_digest"]}


async def main(expected):
    connection = await nats.connect(
        expected["url"], user=expected["user"], password=expected["password"], allow_reconnect=False
    )
    try:
        jetstream = connection.jetstream(timeout=PATIENCE)
        messages = await read_stream(jetstream)
        events = [
            (sequence, check_event(sequence, subject, headers, payload), payload)
            for sequence, subject, headers, payload in messages
        ]
        chains = check_chains(events)

        bucket = await jetstream.object_store(BUCKET)
        listed = sorted(entry.name for entry in await bucket.list())
        published = [event["data"] for _, event, _ in events if event["type"] == "bundle.published"]
        names = sorted(
            object_["name"]
            for data in published
            for object_ in [data["archive"], data["release"], *(delta["object"] for delta in data.get("deltas", []))]
        )
        same("objects in the bucket", names, listed)
        releases = [await check_release(bucket, wanted, events) for wanted in expected["releases"]]
    finally:
        await connection.close()
    print(json.dumps({"events": len(events), "chains": chains, "objects": listed, "releases": releases}))


if __name__ == "__main__":
    try:
        asyncio.run(asyncio.wait_for(main(json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8"))), 60))
    except Difference as difference:
        sys.exit(f"read_everything.py: {difference}")
