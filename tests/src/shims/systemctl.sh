#!/usr/bin/env bash
# Stands for systemd with one unit: `start`, `stop` and `restart` of the command in `systemctl/command`, with the
# variables of `systemctl/environment` and, as systemd does it, none of the caller's.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
state=$here/systemctl
printf '%s\x1f' "$@" >>"$here/calls/systemctl"
printf '\n' >>"$here/calls/systemctl"

case "${2:-}" in
  demon-runtime | demon-runtime.service) ;;
  *)
    echo "Failed to $1 ${2:-}.service: Unit ${2:-}.service not found." >&2
    exit 5
    ;;
esac

running() { [ -e "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }
stop() {
  local waited=0
  if running; then
    kill -TERM "$(cat "$state/pid")"
    while running; do
      waited=$((waited + 1))
      # As long as systemd waits by default, in tenths of a second.
      if [ "$waited" -gt 900 ]; then kill -KILL "$(cat "$state/pid")"; fi
      /bin/sleep 0.1
    done
  fi
  rm -f "$state/pid"
}
start() {
  local assignments=() line
  # A unit without a command is one whose restart only matters as a call.
  [ -e "$state/command" ] || return 0
  while IFS= read -r line; do
    case $line in
      '' | '#'*) ;;
      *) assignments+=("$line") ;;
    esac
  done <"$state/environment"
  # A session of its own: it outlives the caller, and ends with the test.
  env -i PATH=/usr/bin:/bin ${assignments[@]+"${assignments[@]}"} setsid "$state/command" >>"$state/log" 2>&1 </dev/null &
  echo "$!" >"$state/pid"
}

case $1 in
  start) running || start ;;
  stop) stop ;;
  restart)
    stop
    start
    ;;
  is-active)
    if running; then echo active; else
      echo inactive
      exit 3
    fi
    ;;
  *)
    echo "systemctl shim: this call is not known: $*" >&2
    exit 2
    ;;
esac
