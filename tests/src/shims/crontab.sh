#!/usr/bin/env bash
# Stands for the crontab of one user: `-l` prints it, `-` replaces it, as the real one does.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
printf '%s\x1f' "$@" >>"$here/calls/crontab"
printf '\n' >>"$here/calls/crontab"
case ${1:-} in
  -l)
    if [ ! -e "$here/crontab" ]; then
      echo "no crontab for $(id -un)" >&2
      exit 1
    fi
    cat "$here/crontab"
    ;;
  -)
    # Read to its end first: the table may be what is being read.
    content=$(cat)
    printf '%s\n' "$content" >"$here/crontab"
    ;;
  *)
    echo "crontab shim: this call is not known: $*" >&2
    exit 2
    ;;
esac
