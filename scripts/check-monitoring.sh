#!/usr/bin/env bash
# Checks monitoring/ with Prometheus itself: the rules are valid, fire and clear in promtool's tests, and a real
# Prometheus scrapes a live agent, in which an alert of the playbook fires and clears. Needs bash, curl and jq, and
# Prometheus: the one on PATH, else Debian's package, unpacked into DEMON_TOOL_CACHE (default: ~/.cache/demon/tools)
# without installing it. Everything runs on loopback and in a temporary directory.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD

RULES=monitoring/prometheus/bundle-alerts.rules.yml
TESTS=monitoring/prometheus/bundle-alerts.test.yml
# Longest wait for anything, in seconds.
PATIENCE=60

usage() {
  echo "Usage: check-monitoring.sh   (DEMONCTL_BIN and DEMON_RUNTIME_BIN name built programs; else cargo builds them)"
}

say() { printf 'check-monitoring: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

work=''
children=()
cleanup() {
  local child
  for child in ${children[@]+"${children[@]}"}; do kill "$child" 2>/dev/null || true; done
  for child in ${children[@]+"${children[@]}"}; do wait "$child" 2>/dev/null || true; done
  if [ -n "$work" ]; then rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

case ${1:-} in
  '') ;;
  -h | --help)
    usage
    exit 0
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac

# Runs a command as root: as ourselves, or through sudo where it asks no question.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Unpacks Debian's package into a directory; no service is started, and nothing is installed.
unpack_package() {
  local into=$1
  mkdir -p "$into"
  (
    cd "$into"
    apt-get download prometheus >apt.log 2>&1 ||
      { as_root apt-get update >>apt.log 2>&1 && apt-get download prometheus >>apt.log 2>&1; }
    dpkg-deb -x prometheus_*.deb unpacked
  )
}

find_prometheus() {
  local cache
  if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
    promtool=promtool prometheus=prometheus
    return
  fi
  cache=${DEMON_TOOL_CACHE:-${XDG_CACHE_HOME:-${HOME:?neither DEMON_TOOL_CACHE nor HOME is set}/.cache}/demon/tools}
  promtool=$cache/prometheus/usr/bin/promtool prometheus=$cache/prometheus/usr/bin/prometheus
  if [ -x "$promtool" ] && [ -x "$prometheus" ]; then return; fi
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    die "no Prometheus on PATH: install prometheus 2.40 or later (it brings promtool)"
  fi
  say "unpacking Debian's package of Prometheus into $cache"
  unpack_package "$work/package" ||
    die "Debian's package of Prometheus cannot be had: $(tail -n 1 "$work/package/apt.log"); run \`apt-get install prometheus\` as root"
  mkdir -p "$cache"
  # Another run may have put the same there.
  mv -T "$work/package/unpacked" "$cache/prometheus" 2>/dev/null || [ -x "$promtool" ]
}

# Waits until a command succeeds.
wait_for() {
  local what=$1 end=$((SECONDS + PATIENCE))
  shift
  until "$@"; do
    if [ "$SECONDS" -ge "$end" ]; then
      tail -n 20 "$work"/*.log >&2 || true
      die "waited $PATIENCE s for $what"
    fi
    sleep 0.2
  done
}

for program in curl jq; do
  command -v "$program" >/dev/null || die "$program is missing: install it"
done
work=$(mktemp -d)
find_prometheus

say "rules: $("$promtool" --version 2>&1 | head -n 1)"
"$promtool" check rules "$RULES" >&2
"$promtool" test rules "$TESTS" >&2

if [ -z "${DEMONCTL_BIN:-}" ] || [ -z "${DEMON_RUNTIME_BIN:-}" ]; then
  cargo build --quiet --locked -p demonctl -p subscriber
  target=${CARGO_TARGET_DIR:-$repository/target}
  DEMONCTL_BIN=$target/debug/demonctl DEMON_RUNTIME_BIN=$target/debug/demon-runtime
fi

# The agent of this check: without a server first, so that the playbook's BundleDownloadError has a reason to fire.
agent=0
start_agent() {
  env -u NATS_USER -u NATS_PASSWORD NATS_URL="$1" DEMON_NODE_ID=monitored PORT="$2" BIND_ADDR=127.0.0.1 \
    DEMON_CONTRACTS_CACHE="$work/agent/contracts" "$DEMON_RUNTIME_BIN" >"$3" 2>&1 &
  agent=$!
  children+=("$agent")
}
listens() { grep -qs '"HTTP interface listens"' "$1"; }
address_in() { grep -m 1 '"HTTP interface listens"' "$1" | jq -r .address; }

say "a server and an agent"
start_agent nats://127.0.0.1:1 0 "$work/agent.log"
wait_for "the agent's HTTP interface" listens "$work/agent.log"
address=$(address_in "$work/agent.log")
"$DEMONCTL_BIN" up --agents 0 --data "$work/up" --contracts "$repository/contracts" --actor monitoring \
  >"$work/up.log" 2>&1 &
children+=("$!")
is_up() { grep -qs '^Runs until' "$work/up.log"; }
wait_for "the server" is_up
server=$(sed -n 's/^ *export NATS_URL=//p' "$work/up.log" | head -n 1 | tr -d "'\"")

# The rules as they are, but without their patience.
sed -e 's/^\( *\)for: .*/\1for: 0s/' -e 's/interval: 30s/interval: 1s/' "$RULES" >"$work/rules.yml"
cat >"$work/prometheus.yml" <<CONFIGURATION
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [rules.yml]
scrape_configs:
  - job_name: agent
    static_configs: [{ targets: ["$address"] }]
CONFIGURATION
"$promtool" check config "$work/prometheus.yml" >&2
"$prometheus" --config.file "$work/prometheus.yml" --storage.tsdb.path "$work/data" --web.listen-address 127.0.0.1:0 \
  >"$work/prometheus.log" 2>&1 &
children+=("$!")
at() { sed -n 's/.*msg="Listening on" address=\(127\.0\.0\.1:[0-9]*\).*/\1/p' "$work/prometheus.log" | head -n 1; }
has_address() { [ -n "$(at)" ]; }
wait_for "Prometheus" has_address
api=http://$(at)/api/v1

ask() { curl -fsS --max-time 5 "$api/$1" 2>/dev/null; }
scraped() { ask targets | jq -e '.data.activeTargets | length == 1 and all(.health == "up")' >/dev/null; }
healthy() { ask rules | jq -e '[.data.groups[].rules[]] | length > 0 and all(.health == "ok")' >/dev/null; }
fires() {
  ask alerts | jq -e --arg name "$1" 'any(.data.alerts[]; .labels.alertname == $name and .state == "firing")' >/dev/null
}
is_quiet() {
  ask alerts | jq -e --arg name "$1" 'all(.data.alerts[]; .labels.alertname != $name)' >/dev/null
}

wait_for "a scrape of the agent" scraped
wait_for "every rule to be evaluated" healthy
wait_for "BundleDownloadError to fire while there is no server" fires BundleDownloadError
say "BundleDownloadError fires while the agent has no server"

kill "$agent"
wait "$agent" 2>/dev/null || true
start_agent "$server" "${address##*:}" "$work/agent-again.log"
wait_for "BundleDownloadError to clear once the release runs" is_quiet BundleDownloadError
loaded() {
  curl -fsS -G --data-urlencode 'query=demon_bundle_status{state="loaded"}' "$api/query" 2>/dev/null |
    jq -e '.data.result[0].value[1] == "1"' >/dev/null
}
wait_for "the agent to run a release, by Prometheus" loaded
is_quiet BundleDownloadError || die "BundleDownloadError fires although the release runs"
say "it cleared once the release ran; all is well"
