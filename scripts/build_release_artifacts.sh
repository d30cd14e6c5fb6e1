#!/usr/bin/env bash
# Builds the contracts release into a directory, the same bytes for the same commit. See docs/scripts.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: build_release_artifacts.sh [DIRECTORY]

Writes DIRECTORY/contracts/{bundle.json,manifest.json,bundle.sha256} and DIRECTORY/SHA256SUMS from contracts/.
Two runs on one commit give the same bytes, wherever and in whatever locale or time zone they run.

  DIRECTORY  where to write (default: dist in the repository); only these four files in it are replaced

Environment:
  SOURCE_DATE_EPOCH  time of the release in seconds since 1970 (default: the commit's time)
  DEMON_GIT_SHA      commit of the release, 40 hex digits (default: the repository's HEAD)
  DEMON_TRIGGER      what made us build: local (default), schedule, workflow_run, workflow_dispatch
  DEMONCTL_BIN       the demonctl to use (default: as validate-release.sh finds it)

Exit codes: 0 written, 1 not.
TEXT
}

SCRIPT=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null || echo "${BASH_SOURCE[0]}")
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
# shellcheck source=scripts/lib/demonctl.sh
. "$ROOT/scripts/lib/demonctl.sh"
# shellcheck source=scripts/lib/release.sh
. "$ROOT/scripts/lib/release.sh"

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  -*) fail "unknown option \`$1\`; see --help" ;;
esac
[ $# -le 1 ] || fail "one directory at most; see --help"

target=${1:-$ROOT/dist}
case $target in
  /*) ;;
  *) target=$PWD/$target ;;
esac
have_sha256 || fail "neither shasum nor sha256sum is installed"
DEMONCTL=()
find_demonctl "$ROOT" "${DEMONCTL_BIN:-}" || exit 1

if [ -z "${DEMON_GIT_SHA:-}" ]; then
  DEMON_GIT_SHA=$(git -C "$ROOT" rev-parse --verify HEAD) ||
    fail "\`$ROOT\` is no git repository with a commit: set DEMON_GIT_SHA and SOURCE_DATE_EPOCH"
fi
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
  SOURCE_DATE_EPOCH=$(git -C "$ROOT" show -s --format=%ct "$DEMON_GIT_SHA") ||
    fail "git does not know the time of $DEMON_GIT_SHA: set SOURCE_DATE_EPOCH"
fi
export DEMON_GIT_SHA SOURCE_DATE_EPOCH
export DEMON_TRIGGER=${DEMON_TRIGGER:-local}
# Sorting and dates the same everywhere.
export LC_ALL=C TZ=UTC
umask 022

# Built beside the old artifacts and moved over them at the end, so that a failure leaves those as they are.
mkdir -p "$target"
work=$(mktemp -d "$target/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

(cd "$ROOT" && "${DEMONCTL[@]}" contracts bundle --include-wit --output-dir "$work/contracts" contracts >"$work/output") || {
  cat "$work/output" >&2
  fail "the contracts bundle was not built"
}
for name in "${RELEASE_FILES[@]}"; do
  [ -s "$work/contracts/$name" ] || fail "\`demonctl contracts bundle\` wrote no $name"
  printf '%s  contracts/%s\n' "$(sha256_of "$work/contracts/$name")" "$name"
done >"$work/SHA256SUMS"
check_digest_file "$work/contracts/bundle.sha256" "$work/contracts/bundle.json" || fail "the built bundle does not match"

mkdir -p "$target/contracts"
for name in "${RELEASE_FILES[@]}"; do
  mv -f "$work/contracts/$name" "$target/contracts/$name"
  chmod 0644 "$target/contracts/$name"
done
mv -f "$work/SHA256SUMS" "$target/SHA256SUMS"
cat "$target/SHA256SUMS"
