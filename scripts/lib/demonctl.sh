# shellcheck shell=bash
# Sourced, not run: finds the operator's command line.

# find_demonctl ROOT [WANTED]
# Sets the array DEMONCTL to the command and its first arguments. WANTED (a path, or a name on PATH) is used or
# refused, never replaced. Without it: `demonctl` on PATH, then what was built below ROOT, then `cargo run`.
# On failure it prints one line on standard error and returns 1.
find_demonctl() {
  local root=$1 wanted=${2:-} candidate
  if [ -n "$wanted" ]; then
    # Absolute before anything changes directory.
    case $wanted in
      /*) candidate=$wanted ;;
      */*) candidate=$PWD/${wanted#./} ;;
      *) candidate=$(type -P "$wanted" || echo "$PWD/$wanted") ;;
    esac
    if [ ! -f "$candidate" ] || [ ! -x "$candidate" ]; then
      echo "\`$wanted\` is no program that can be run (looked at $candidate): set DEMONCTL_BIN to a demonctl" >&2
      return 1
    fi
    DEMONCTL=("$candidate")
  elif candidate=$(type -P demonctl); then
    case $candidate in
      /*) ;;
      *) candidate=$PWD/$candidate ;;
    esac
    DEMONCTL=("$candidate")
  elif [ -x "$root/target/release/demonctl" ]; then
    DEMONCTL=("$root/target/release/demonctl")
  elif [ -x "$root/target/debug/demonctl" ]; then
    DEMONCTL=("$root/target/debug/demonctl")
  elif type -P cargo >/dev/null && [ -f "$root/Cargo.toml" ]; then
    DEMONCTL=(cargo run --quiet --locked --manifest-path "$root/Cargo.toml" -p demonctl --)
  else
    echo "demonctl was not found: set DEMONCTL_BIN, put it on PATH, or build it with \`cargo build -p demonctl\`" >&2
    return 1
  fi
  if ! "${DEMONCTL[@]}" --version >/dev/null; then
    echo "\`${DEMONCTL[*]} --version\` failed: set DEMONCTL_BIN to a demonctl that runs" >&2
    return 1
  fi
}
