#!/usr/bin/env python3
"""Applies a delta by hand: apply-delta.py DELTA BASE-RELEASE.JSON BASE-FILES RELEASE.JSON TARGET

Needs the zstd command. BASE-FILES is the directory of the base's files, TARGET is made. RELEASE.JSON is the release's
own, from the bucket; the delta holds it too, and both must be the same. For files up to 64 MiB: larger ones travel in
pieces, which only the agent puts together.
"""
import hashlib, json, os, shutil, subprocess, sys, tempfile


def number(data, at):
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def patched(data, at, base):
    length, at = number(data, at)
    with tempfile.NamedTemporaryFile() as frame:
        frame.write(data[at:at + length])
        frame.flush()
        prefix = ["--patch-from=" + base] if base else []
        command = ["zstd", "-q", "-d", "-c", "--memory=128MB", *prefix, frame.name]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout, at + length


def main(delta, base_json, base_files, release_json, target):
    data = open(delta, "rb").read()
    if data[:6] != b"DELTA\x01":
        sys.exit("not a delta of version 1")
    described, at = patched(data, 7, base_json)
    if described != open(release_json, "rb").read():
        sys.exit("the delta describes another release")
    base, release = json.load(open(base_json))["files"], json.loads(described)["files"]
    have = {file["sha256"]: os.path.join(base_files, file["path"]) for file in base}
    for file in release:
        path = os.path.join(target, file["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if file["sha256"] in have:
            shutil.copyfile(have[file["sha256"]], path)
        else:
            position, at = number(data, at)
            prefix = os.path.join(base_files, base[position - 1]["path"]) if position else None
            content, at = patched(data, at, prefix)
            open(path, "wb").write(content)
            have[file["sha256"]] = path
        if hashlib.sha256(open(path, "rb").read()).hexdigest() != file["sha256"]:
            sys.exit(f"{file['path']} does not come out right")
        os.chmod(path, int(file["mode"], 8))


main(*sys.argv[1:])
