#!/usr/bin/env bash
# Moves a node to the newest bundle, and back where that fails: backup, fetch, verify, restart, check.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: weekly-bundle-update.sh

Backs up the node's cache, fetches a release into it, restarts the runtime and waits until it serves the bundle.
On success the backups are removed. On failure the backup stays, the old bundle is put back where the runtime had
been restarted, and the exit code is 1.

Environment:
  DEMON_CONTRACTS_TAG    what to fetch (default: contracts-latest)
  DEMON_CONTRACTS_CACHE  the node's cache (default: .demon/contracts)
  DEMON_STATUS_URL       where the node's status is served (default: http://localhost:3000)
  DEMON_RUNTIME_UNIT     the unit to restart (default: demon-runtime)
  DEMON_READY_SECONDS    how long the runtime may take until it serves the bundle (default: 60)
  DEMONCTL_BIN           the demonctl to use (default: as validate-release.sh finds it)

Exit codes: 0 the node serves the bundle, 1 it does not.
TEXT
}

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  '') ;;
  *)
    echo "weekly-bundle-update.sh takes no arguments; see --help" >&2
    exit 1
    ;;
esac

SCRIPT=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null || echo "${BASH_SOURCE[0]}")
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
# shellcheck source=scripts/lib/demonctl.sh
. "$ROOT/scripts/lib/demonctl.sh"
# shellcheck source=scripts/lib/release.sh
. "$ROOT/scripts/lib/release.sh"

status_url=${DEMON_STATUS_URL:-http://localhost:3000}
status_url=${status_url%/}/api/contracts/status
cache=${DEMON_CONTRACTS_CACHE:-.demon/contracts}
cache=${cache%/}
unit=${DEMON_RUNTIME_UNIT:-demon-runtime}
ready_seconds=${DEMON_READY_SECONDS:-60}
tag=${DEMON_CONTRACTS_TAG:-contracts-latest}
backup=''

fail() {
  [ $# -eq 0 ] || printf '%s\n' "$*" >&2
  echo "✗ Bundle update failed - check logs"
  [ -z "$backup" ] || echo "The backup stays: $backup" >&2
  exit 1
}

case $ready_seconds in
  '' | *[!0-9]*) fail "DEMON_READY_SECONDS is \`$ready_seconds\`: it is a number of seconds" ;;
esac
for program in curl jq systemctl; do
  type -P "$program" >/dev/null || fail "$program is not installed"
done
have_sha256 || fail "neither shasum nor sha256sum is installed"
DEMONCTL=()
find_demonctl "$ROOT" "${DEMONCTL_BIN:-}" || fail

bundle_status() {
  local answer
  answer=$(curl --silent --fail --max-time 10 "$status_url") || return 1
  jq -r '.contractBundle.status // "unknown"' <<<"$answer"
}

# Looks every second until the bundle is loaded, or the time is up.
wait_until_loaded() {
  local deadline=$((SECONDS + ready_seconds)) status=''
  while :; do
    status=$(bundle_status 2>/dev/null) || status="not reachable"
    [ "$status" != loaded ] || return 0
    [ "$SECONDS" -lt "$deadline" ] || break
    sleep 1
  done
  echo "after $ready_seconds s the bundle status is: $status" >&2
  return 1
}

# The tag that a cache holds: where its `current` points, else what its manifest says.
cached_tag() {
  local target
  if target=$(readlink "$1/current"); then
    basename "$target"
  else
    jq -er '"contracts-\(.timestamp[0:10] | gsub("-"; ""))-\(.git.sha[0:8])"' "$1/manifest.json"
  fi
}

# Back to what ran before: as a release again where the source has it, else from the backup itself.
restore() {
  local old_tag failed
  [ -n "$backup" ] || return 0
  echo "Putting the old bundle back" >&2
  if ! { old_tag=$(cached_tag "$backup") &&
    "${DEMONCTL[@]}" contracts fetch-bundle --tag "$old_tag" --dest "$cache" >&2 &&
    cmp -s "$cache/bundle.json" "$backup/bundle.json"; }; then
    failed=$cache.failed.$$
    mv "$cache" "$failed" && cp -R "$backup" "$cache" && rm -rf "$failed"
  fi
  systemctl restart "$unit" || echo "\`systemctl restart $unit\` failed" >&2
}

echo "=== Weekly Bundle Update ==="

if [ -d "$cache" ]; then
  # A name of its own: copying onto an existing directory would copy into it.
  backup=$cache.backup.$(date +%Y%m%d)
  number=1
  while [ -e "$backup" ]; do
    backup=$cache.backup.$(date +%Y%m%d).$number
    number=$((number + 1))
  done
  cp -R "$cache" "$backup" || fail "the backup could not be made"
else
  echo "Nothing to back up: $cache does not exist"
fi

# Verified before it becomes visible: a failure leaves the old bundle in place.
"${DEMONCTL[@]}" contracts fetch-bundle --tag "$tag" --dest "$cache" || fail "release \`$tag\` could not be fetched"

if ! check_digest_file "$cache/bundle.sha256" "$cache/bundle.json"; then
  restore
  fail "the fetched bundle does not have its digest"
fi
echo "bundle.json: OK"

if ! systemctl restart "$unit"; then
  restore
  fail "\`systemctl restart $unit\` failed"
fi
if ! wait_until_loaded; then
  restore
  fail
fi

echo "✓ Bundle update successful"
rm -rf "$cache".backup.*
echo "=== Update complete ==="
