#!/usr/bin/env bash
# Checks a released contracts bundle from download to summary. See docs/scripts.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: validate-release.sh [-h|--help] [-v|--verbose] [TAG]

Downloads a released contracts bundle and checks it in nine steps: download, files, SHA-256,
structure, manifest fields, cross-check, freshness, git SHA, summary. An old bundle is a warning.

  TAG            release or alias to check (default: contracts-latest)
  -v, --verbose  print sizes, manifest and digests too (or VERBOSE=true)
  -h, --help     print this help

Environment:
  DEMONCTL_BIN            the demonctl to use (default: on PATH, then target/release, target/debug, cargo run)
  DEMON_CONTRACTS_SOURCE  where the release comes from: nats (default) or github
  NATS_URL, NATS_USER, …  login for nats, as for demonctl
  GH_OWNER, GH_REPO       repository for github (default: afewell-hh, demon); needs gh and its GH_TOKEN
  VERBOSE                 true for more output
  NO_COLOR                set for no colours (there are none without a terminal)

Exit codes: 0 the release is good, 1 a step failed (it is named) or the call was wrong.
TEXT
}

SCRIPT=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null || echo "${BASH_SOURCE[0]}")
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
# shellcheck source=scripts/lib/demonctl.sh
. "$ROOT/scripts/lib/demonctl.sh"
# shellcheck source=scripts/lib/release.sh
. "$ROOT/scripts/lib/release.sh"

STEPS=9
FRESH_HOURS=48
OLD_HOURS=168

GREEN='' YELLOW='' RED='' PLAIN=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
  GREEN=$'\033[32m' YELLOW=$'\033[33m' RED=$'\033[31m' PLAIN=$'\033[0m'
fi

step_number=0
step_name=preparation

say() { printf '[%s] %s\n' "$(date +%H:%M:%S)" "$*"; }
passed() { say "${GREEN}ok${PLAIN}: $*"; }
warn() { say "${YELLOW}WARN${PLAIN}: $*"; }
debug() {
  case $verbose in
    true | 1 | yes) say "  $*" ;;
  esac
}
fail() {
  local where=$step_name
  if [ "$step_number" -gt 0 ]; then
    where="step $step_number/$STEPS ($step_name)"
  fi
  say "${RED}ERROR${PLAIN}: $where failed: $*" >&2
  exit 1
}
step() {
  step_number=$((step_number + 1))
  step_name=$1
  say "Step $step_number/$STEPS: $step_name"
}

# One field of the manifest, empty where it is missing or no text.
field() { manifest_text "$manifest" "$1"; }

# Whole hours between the manifest's time and now; empty where its time cannot be read. jq does it, because the
# options of date(1) differ between systems.
age_in_hours() {
  jq -r '
    .timestamp
    | capture("^(?<time>[0-9-]{10}T[0-9:]{8})([.][0-9]+)?(?<zone>Z|[+-][0-9]{2}:[0-9]{2})$")
    | (if .zone == "Z" then 0 else (.zone[1:3] | tonumber) * 3600 + (.zone[4:6] | tonumber) * 60 end) as $offset
    | (.time + "Z" | fromdateiso8601) as $local
    | (now - (if .zone[0:1] == "-" then $local + $offset else $local - $offset end)) / 3600
    | floor' "$manifest" 2>/dev/null || true
}

verbose=${VERBOSE:-false}
tag=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    -v | --verbose) verbose=true ;;
    -*) fail "unknown option \`$1\`; see --help" ;;
    '') fail "the tag is empty; see --help" ;;
    *)
      [ -z "$tag" ] || fail "one tag at a time: \`$tag\` and \`$1\` were given; see --help"
      tag=$1
      ;;
  esac
  shift
done
tag=${tag:-contracts-latest}

type -P jq >/dev/null || fail "jq is not installed"
have_sha256 || fail "neither shasum nor sha256sum is installed"
source=$(release_source) || fail "the source is unknown"
if [ "$source" = github ] && ! type -P gh >/dev/null; then
  fail "gh is not installed, and DEMON_CONTRACTS_SOURCE=github downloads with it: install it, or use nats"
fi
DEMONCTL=()
find_demonctl "$ROOT" "${DEMONCTL_BIN:-}" || fail "there is no demonctl to check the bundle with"

work=$(mktemp -d "${TMPDIR:-/tmp}/validate-release.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
release=$work/release
mkdir "$release"
bundle=$release/bundle.json
manifest=$release/manifest.json

# Prints what a command said, each line marked, where that is wanted or needed.
show() { while IFS= read -r line; do say "  $line"; done <"$1"; }

debug "demonctl: ${DEMONCTL[*]}"
debug "source: $source"

step "download release $tag"
if ! download_release "$source" "$tag" "$release" >"$work/output" 2>&1; then
  show "$work/output" >&2
  fail "release \`$tag\` could not be downloaded from $source"
fi
passed "downloaded from $source"

step "files present"
for name in "${RELEASE_FILES[@]}"; do
  [ -f "$release/$name" ] || fail "the release has no $name"
  [ -s "$release/$name" ] || fail "$name is empty"
  debug "$name: $(wc -c <"$release/$name" | tr -d ' ') bytes"
done
passed "${RELEASE_FILES[*]}"

step "SHA-256 checksum"
reason=$(check_digest_file "$release/bundle.sha256" "$bundle" 2>&1) || fail "$reason"
digest=$(sha256_of "$bundle")
debug "SHA-256: $digest"
passed "bundle.sha256 matches bundle.json"

step "bundle structure"
if ! validate_alone "$bundle" "$work/alone" >"$work/output" 2>&1; then
  show "$work/output" >&2
  fail "demonctl contracts validate refuses bundle.json"
fi
while IFS= read -r line; do debug "$line"; done <"$work/output"
passed "demonctl contracts validate accepts bundle.json"

step "manifest fields"
jq -e 'type == "object"' "$manifest" >/dev/null 2>&1 || fail "manifest.json is no JSON object"
for name in .version .timestamp .git.sha .bundle_sha256; do
  value=$(field "$name")
  [ -n "$value" ] || fail "manifest.json has no ${name#.}"
  debug "${name#.}: $value"
done
passed "version, timestamp, git.sha, bundle_sha256"

step "manifest cross-check"
stated=$(field .bundle_sha256)
[ "$stated" = "$digest" ] || fail "manifest.json says $stated, bundle.json has $digest"
passed "manifest.json names the digest of bundle.json"

step "freshness"
age=$(age_in_hours)
if [ -z "$age" ]; then
  warn "the age is unknown: the timestamp \`$(field .timestamp)\` is not RFC 3339"
elif [ "$age" -lt 0 ]; then
  warn "the timestamp $(field .timestamp) lies in the future: check the clocks"
elif [ "$age" -ge "$OLD_HOURS" ]; then
  warn "the bundle is quite old: $age hours (a week or more)"
elif [ "$age" -ge "$FRESH_HOURS" ]; then
  warn "the bundle is aging: $age hours (more than two days)"
else
  passed "fresh: $age hours"
fi

step "git SHA"
git_sha=$(field .git.sha)
[[ $git_sha =~ ^[a-f0-9]{40}$ ]] || fail "git.sha is \`$git_sha\`, not 40 lowercase hex digits"
passed "$git_sha"

step "summary"
say "Tag:        $tag"
say "Version:    $(field .version)"
say "Timestamp:  $(field .timestamp)"
say "Git SHA:    $git_sha"
say "Bundle SHA: $digest"
say "Age:        ${age:-unknown} h"
say "Size:       $(wc -c <"$bundle" | tr -d ' ') bytes"
passed "release $tag is good"
