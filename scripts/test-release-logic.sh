#!/usr/bin/env bash
# Tries what the release workflow does, without releasing anything. See docs/scripts.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: test-release-logic.sh [--github]

Builds the artifacts twice, compares them, checks them and prints the tag they would have. Nothing is released.

  --github  also ask GitHub what release-contracts.sh would do now; needs gh and GH_TOKEN

Environment: that of build_release_artifacts.sh and release-contracts.sh.
Exit codes: 0 all is well, 1 it is not.
TEXT
}

SCRIPT=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null || echo "${BASH_SOURCE[0]}")
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
# shellcheck source=scripts/lib/demonctl.sh
. "$ROOT/scripts/lib/demonctl.sh"
# shellcheck source=scripts/lib/release.sh
. "$ROOT/scripts/lib/release.sh"

fail() {
  printf '✗ %s\n' "$*" >&2
  exit 1
}
passed() { printf '✓ %s\n' "$*"; }

github=false
case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  --github) github=true ;;
  '') ;;
  *) fail "unknown argument \`$1\`; see --help" ;;
esac
type -P jq >/dev/null || fail "jq is not installed"
DEMONCTL=()
find_demonctl "$ROOT" "${DEMONCTL_BIN:-}" || exit 1

work=$(mktemp -d "${TMPDIR:-/tmp}/test-release-logic.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

for run in first second; do
  "$ROOT/scripts/build_release_artifacts.sh" "$work/$run" >/dev/null || fail "the artifacts are not built"
done
diff -r "$work/first" "$work/second" >&2 || fail "two builds differ"
passed "two builds are the same, byte for byte"

dist=$work/first/contracts
reason=$(check_digest_file "$dist/bundle.sha256" "$dist/bundle.json" 2>&1) || fail "$reason"
digest=$(sha256_of "$dist/bundle.json")
[ "$(jq -r .bundle_sha256 "$dist/manifest.json")" = "$digest" ] || fail "manifest.json names another digest"
passed "bundle.sha256 and manifest.json name the digest $digest"

reason=$(cd "$dist" && "${DEMONCTL[@]}" contracts validate bundle.json 2>&1) || fail "$reason"
passed "demonctl contracts validate accepts bundle and manifest"

tag=$(jq -r '"contracts-\(.timestamp[0:10] | gsub("-"; ""))-\(.git.sha[0:8])"' "$dist/manifest.json")
[[ $tag =~ ^contracts-[0-9]{8}-[0-9a-f]{8}$ ]] || fail "the manifest gives no tag: \`$tag\`"
passed "the release would be $tag"

if [ "$github" = true ]; then
  "$ROOT/scripts/release-contracts.sh" --dry-run "$dist"
fi
