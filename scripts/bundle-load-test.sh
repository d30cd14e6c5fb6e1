#!/usr/bin/env bash
# Times cold fetches of a bundle and asks for the status several times at once. See docs/scripts.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: bundle-load-test.sh

Fetches a release into an empty directory again and again, prints how long each took and compares the digests;
then asks a node for its status several times at once. The node's own cache is not touched.

Environment:
  DEMON_LOAD_ITERATIONS  cold fetches (default: 10)
  DEMON_LOAD_REQUESTS    status requests at once (default: 5; 0: none)
  DEMON_CONTRACTS_TAG    what to fetch (default: contracts-latest)
  DEMON_STATUS_URL       where the node's status is served (default: http://localhost:3000)
  DEMONCTL_BIN           the demonctl to use (default: as validate-release.sh finds it)

Exit codes: 0 everything answered and every digest was the same, 1 otherwise.
TEXT
}

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  '') ;;
  *)
    echo "bundle-load-test.sh takes no arguments; see --help" >&2
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
tag=${DEMON_CONTRACTS_TAG:-contracts-latest}
iterations=${DEMON_LOAD_ITERATIONS:-10}
requests=${DEMON_LOAD_REQUESTS:-5}

fail() {
  printf '✗ %s\n' "$*" >&2
  exit 1
}

case $iterations$requests in
  *[!0-9]*) fail "DEMON_LOAD_ITERATIONS and DEMON_LOAD_REQUESTS are numbers" ;;
esac
have_sha256 || fail "neither shasum nor sha256sum is installed"
DEMONCTL=()
find_demonctl "$ROOT" "${DEMONCTL_BIN:-}" || exit 1

work=$(mktemp -d "${TMPDIR:-/tmp}/bundle-load-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

TIMEFORMAT='%R s'
first=''
for ((iteration = 1; iteration <= iterations; iteration++)); do
  rm -rf "$work/contracts"
  time "${DEMONCTL[@]}" contracts fetch-bundle --tag "$tag" --dest "$work/contracts" >/dev/null ||
    fail "iteration $iteration: release \`$tag\` could not be fetched"
  digest=$(sha256_of "$work/contracts/bundle.json")
  first=${first:-$digest}
  [ "$digest" = "$first" ] || fail "iteration $iteration: digest $digest, the first had $first"
  echo "Iteration $iteration complete"
done

waiting=()
for ((request = 1; request <= requests; request++)); do
  curl --silent --fail --max-time 30 --output /dev/null "$status_url" &
  waiting+=("$!")
done
unanswered=0
for request in ${waiting[@]+"${waiting[@]}"}; do
  wait "$request" || unanswered=$((unanswered + 1))
done
[ "$unanswered" -eq 0 ] || fail "$unanswered of $requests status requests were not answered: $status_url"

echo "Load test complete"
