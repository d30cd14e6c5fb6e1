#!/usr/bin/env bash
# Daily look at a node's bundle: status, newest releases, digest of what is cached. Reports; changes nothing.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: daily-bundle-check.sh

Prints the bundle's status and alerts, the three newest releases and whether the cached bundle has its digest.
A finding is printed and is no failure: watch the output, or the alerts of the monitoring.

Environment:
  DEMON_STATUS_URL       where the node's status is served (default: http://localhost:3000)
  DEMON_CONTRACTS_CACHE  the node's cache (default: .demon/contracts)
  DEMONCTL_BIN           the demonctl to use (default: as validate-release.sh finds it)

Exit codes: 0 the check was done, 1 it could not be.
TEXT
}

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  '') ;;
  *)
    echo "daily-bundle-check.sh takes no arguments; see --help" >&2
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

for program in curl jq; do
  type -P "$program" >/dev/null || {
    echo "$program is not installed" >&2
    exit 1
  }
done
have_sha256 || {
  echo "neither shasum nor sha256sum is installed" >&2
  exit 1
}

echo "=== Daily Bundle Health Check ==="

# One answer for status and alerts, so that both are of the same moment.
answer=$(curl --silent --show-error --fail --max-time 30 "$status_url") || answer=''
status=$(jq -r '.contractBundle.status // "unknown"' <<<"${answer:-"{}"}" 2>/dev/null) || status=unknown
echo "Bundle status: $status"
if [ "$status" != loaded ]; then
  echo "WARNING: Bundle not loaded properly"
  if [ -n "$answer" ]; then
    jq '.contractBundle.alerts' <<<"$answer" || echo "the status is no JSON: $status_url"
  else
    echo "the status could not be read: $status_url"
  fi
fi

echo "Latest releases:"
DEMONCTL=()
if find_demonctl "$ROOT" "${DEMONCTL_BIN:-}"; then
  "${DEMONCTL[@]}" contracts list-releases --limit 3 || echo "WARNING: the releases could not be listed"
else
  echo "WARNING: the releases could not be listed"
fi

echo "Current bundle verification:"
if reason=$(check_digest_file "$cache/bundle.sha256" "$cache/bundle.json" 2>&1); then
  echo "✓ Verification passed"
else
  echo "✗ Verification failed"
  echo "$reason"
fi

echo "=== Check complete ==="
