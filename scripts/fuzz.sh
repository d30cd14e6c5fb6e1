#!/usr/bin/env bash
# Feeds hostile bytes to everything that reads bytes from outside, each target for a bounded time. Needs rustup; installs
# cargo-fuzz and a nightly compiler where they are missing. New inputs and crashes stay under fuzz/ and are not committed;
# a crash belongs into fuzz/findings/<target>/, where `cargo test` runs it for ever.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_FUZZ_VERSION=0.13.2

usage() {
  cat <<'TEXT'
Usage: fuzz.sh [--seconds N] [TARGET…]   (default: 10 seconds for each target)

  fuzz.sh                          a short run over all targets
  fuzz.sh --seconds 3600 archive   an hour of one of them
TEXT
}

seconds=10
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --seconds)
      seconds=${2:-}
      case $seconds in
        '' | *[!0-9]*)
          echo "fuzz.sh: --seconds needs a whole number" >&2
          exit 2
          ;;
      esac
      shift 2
      ;;
    -*)
      usage >&2
      exit 2
      ;;
    *)
      targets+=("$1")
      shift
      ;;
  esac
done
if [ ${#targets[@]} -eq 0 ]; then
  for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

if ! cargo fuzz --version 2>/dev/null | grep -qx "cargo-fuzz ${CARGO_FUZZ_VERSION}"; then
  cargo install cargo-fuzz --version "$CARGO_FUZZ_VERSION" --locked --quiet
fi
if ! rustup run nightly rustc --version >/dev/null 2>&1; then
  rustup toolchain install nightly --profile minimal
fi

cargo +nightly fuzz build
for target in "${targets[@]}"; do
  echo "fuzzing $target for $seconds s"
  mkdir -p "fuzz/corpus/$target"
  inputs=("fuzz/corpus/$target" "fuzz/seeds/$target")
  if [ -d "fuzz/findings/$target" ]; then inputs+=("fuzz/findings/$target"); fi
  log=$(mktemp)
  # One input may take ten seconds and a gigabyte at most: more is a finding as well.
  if ! cargo +nightly fuzz run "$target" "${inputs[@]}" -- -max_total_time="$seconds" -max_len=65536 -timeout=10 \
    -rss_limit_mb=1024 -print_final_stats=1 >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    echo "fuzz.sh: $target failed; the input is in fuzz/artifacts/$target/" >&2
    exit 1
  fi
  grep -E 'stat::(number_of_executed_units|new_units_added|peak_rss_mb)' "$log" || true
  rm -f "$log"
done
