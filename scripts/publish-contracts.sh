#!/usr/bin/env bash
# Publishes contracts/ to the NATS server of the environment, in a workflow or by hand. See docs/scripts.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: publish-contracts.sh

Runs `demonctl contracts publish` with what a workflow knows: its trigger, and whether a release is forced. A
run of the trigger `schedule` makes the day's release also of unchanged content. Without NATS_URL there is nothing to do.

Environment:
  NATS_URL, NATS_USER, NATS_PASSWORD, …  server and login, as for demonctl; empty is as good as not set
  DEMON_TRIGGER      what made us publish: local (default), schedule, workflow_run, workflow_dispatch
  FORCE_RELEASE      true: release unchanged content too (default: false)
  SOURCE_DATE_EPOCH, DEMON_GIT_SHA  time and commit of the release, as for demonctl
  DEMONCTL_BIN       the demonctl to use (default: as validate-release.sh finds it)

Exit codes: those of demonctl; 0 where nothing was to be done.
TEXT
}

SCRIPT=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null || echo "${BASH_SOURCE[0]}")
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
# shellcheck source=scripts/lib/demonctl.sh
. "$ROOT/scripts/lib/demonctl.sh"
# shellcheck source=scripts/lib/release.sh
. "$ROOT/scripts/lib/release.sh"

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
  '') ;;
  *)
    echo "publish-contracts.sh takes no arguments; see --help" >&2
    exit 1
    ;;
esac

# A secret that is not set arrives as an empty variable.
for name in NATS_URL NATS_USER NATS_PASSWORD NATS_CREDS_PATH; do
  if [ -z "${!name:-}" ]; then unset "$name"; fi
done
if [ -z "${NATS_URL:-}" ]; then
  echo "NATS_URL is not set: nothing is published to NATS"
  exit 0
fi
force=$(truth FORCE_RELEASE) || exit 1
DEMONCTL=()
find_demonctl "$ROOT" "${DEMONCTL_BIN:-}" || exit 1

export DEMON_TRIGGER=${DEMON_TRIGGER:-local}
cd "$ROOT"
"${DEMONCTL[@]}" contracts publish --force="$force" contracts
