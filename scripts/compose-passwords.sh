#!/usr/bin/env bash
# Writes .env with fresh passwords for docker-compose.yml. Keeps an existing one.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -e .env ]; then
  echo ".env is there already; remove it first for new passwords" >&2
  exit 1
fi

umask 077
for name in SYS OPERATOR PUBLISHER AGENT_1 AGENT_2; do
  # A letter first: nats-server reads a variable that begins with a digit as a number.
  printf 'DEMON_%s_PASSWORD=p%s\n' "$name" "$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')"
done >.env
echo "wrote .env; next: docker compose up --build" >&2
