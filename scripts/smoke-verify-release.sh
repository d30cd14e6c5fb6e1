#!/usr/bin/env bash
# Quick check of a released contracts bundle, stopping at the first thing wrong. See docs/scripts.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: smoke-verify-release.sh [TAG] [WORK_DIR] [DEMONCTL_PATH]

Downloads a release and checks its three files, the digest, the bundle's structure, the manifest
and that the bundle holds the schemas everything else needs.

  TAG            release or alias (default: contracts-latest)
  WORK_DIR       where to download to (default: a new /tmp/release-verify-<seconds>-…);
                 emptied of the release afterwards, unless CI=true
  DEMONCTL_PATH  the demonctl to use (default: as validate-release.sh finds it)

Environment: DEMON_CONTRACTS_SOURCE, GH_OWNER, GH_REPO, DEMONCTL_BIN and the login, as for validate-release.sh.
Exit codes: 0 the release is good, 1 a step failed.
TEXT
}

SCRIPT=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null || echo "${BASH_SOURCE[0]}")
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
# shellcheck source=scripts/lib/demonctl.sh
. "$ROOT/scripts/lib/demonctl.sh"
# shellcheck source=scripts/lib/release.sh
. "$ROOT/scripts/lib/release.sh"

REQUIRED_SCHEMAS=(result-envelope.json bootstrap.bundle.v0.json)

fail() {
  printf '✗ %s\n' "$*" >&2
  exit 1
}
passed() { printf '✓ %s\n' "$*"; }

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  -*) fail "unknown option \`$1\`; see --help" ;;
esac
[ $# -le 3 ] || fail "at most three arguments; see --help"
tag=${1:-contracts-latest}

type -P jq >/dev/null || fail "jq is not installed"
have_sha256 || fail "neither shasum nor sha256sum is installed"
source=$(release_source) || exit 1
if [ "$source" = github ] && ! type -P gh >/dev/null; then
  fail "gh is not installed, and DEMON_CONTRACTS_SOURCE=github downloads with it"
fi
DEMONCTL=()
find_demonctl "$ROOT" "${3:-${DEMONCTL_BIN:-}}" || fail "there is no demonctl to check the bundle with"

# A directory that was there before keeps everything but the release.
own_directory=true
if [ -n "${2:-}" ]; then
  if [ -e "$2" ]; then
    [ -d "$2" ] || fail "\`$2\` is no directory"
    own_directory=false
  fi
  mkdir -p "$2"
  work=$(cd "$2" && pwd)
else
  work=$(mktemp -d "/tmp/release-verify-$(date +%s)-XXXXXX")
fi
release=$work/release
[ ! -e "$release" ] || rm -rf "$release"
mkdir "$release"

finish() {
  if [ "${CI:-}" = true ]; then
    printf 'kept: %s\n' "$release" >&2
  elif [ "$own_directory" = true ]; then
    rm -rf "$work"
  else
    rm -rf "$release"
  fi
  rm -rf "$work/.alone" "$work/.output"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

printf 'Verifying release %s from %s\n' "$tag" "$source"
download_release "$source" "$tag" "$release" >"$work/.output" 2>&1 || {
  cat "$work/.output" >&2
  rm -f "$work/.output"
  fail "download: release \`$tag\` could not be downloaded"
}
rm -f "$work/.output"
for name in "${RELEASE_FILES[@]}"; do
  [ -s "$release/$name" ] || fail "files: the release has no $name"
done
passed "files: ${RELEASE_FILES[*]}"

reason=$(check_digest_file "$release/bundle.sha256" "$release/bundle.json" 2>&1) || fail "checksum: $reason"
passed "checksum: bundle.sha256 matches bundle.json"

reason=$(validate_alone "$release/bundle.json" "$work/.alone" 2>&1) || fail "structure: $reason"
passed "structure: demonctl contracts validate accepts bundle.json"

for name in .version .bundle_sha256 .git.sha; do
  value=$(manifest_text "$release/manifest.json" "$name") || value=''
  [ -n "$value" ] || fail "manifest: manifest.json has no ${name#.}"
done
passed "manifest: version, bundle_sha256, git.sha"

for name in "${REQUIRED_SCHEMAS[@]}"; do
  jq -e --arg name "$name" '.schemas | has($name)' "$release/bundle.json" >/dev/null 2>&1 ||
    fail "schemas: the bundle has no $name"
done
passed "schemas: ${REQUIRED_SCHEMAS[*]}"

digest=$(sha256_of "$release/bundle.json")
manifest=$release/manifest.json
stated=$(manifest_text "$manifest" .bundle_sha256)
[ "$stated" = "$digest" ] || fail "cross-check: manifest.json says $stated, bundle.json has $digest"
passed "cross-check: manifest.json names the digest of bundle.json"

printf 'Release summary\n'
printf '  Tag:        %s\n' "$tag"
printf '  Version:    %s\n' "$(manifest_text "$manifest" .version)"
printf '  Timestamp:  %s\n' "$(manifest_text "$manifest" .timestamp)"
printf '  Git SHA:    %s\n' "$(manifest_text "$manifest" .git.sha)"
printf '  Bundle SHA: %s\n' "$digest"
printf '  Schemas:    %s\n' "$(jq '.schemas | length' "$release/bundle.json")"
