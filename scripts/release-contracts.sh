#!/usr/bin/env bash
# Releases the built contracts bundle on GitHub, where it changed, and moves the alias. See docs/scripts.md.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: release-contracts.sh [--dry-run] [DIRECTORY]

Makes the GitHub release contracts-YYYYMMDD-<sha8> of the three files in DIRECTORY (default: dist/contracts in the
repository, as build_release_artifacts.sh writes it), and moves the alias contracts-latest to it. A bundle with the
content that the alias has is not released again, but for a scheduled or forced run. A run that was cut off is
finished by the next one; a release of this name with other content is refused.

  --dry-run  say what would be done, ask GitHub only, and write nothing there

Environment:
  FORCE_RELEASE      true: release unchanged content too (default: false)
  DEMON_TRIGGER      what made us release: local (default), schedule, workflow_run, workflow_dispatch
  GITHUB_REPOSITORY  OWNER/NAME (default: of GH_OWNER and GH_REPO)
  GH_TOKEN           for gh
  GITHUB_OUTPUT      file for `released`, `tag` and `digest`, in a workflow
  GITHUB_STEP_SUMMARY  file for the decision in words, in a workflow

Exit codes: 0 released, or nothing to do; 1 refused or failed.
TEXT
}

SCRIPT=$(readlink -f "${BASH_SOURCE[0]}" 2>/dev/null || echo "${BASH_SOURCE[0]}")
ROOT=$(cd "$(dirname "$SCRIPT")/.." && pwd)
# shellcheck source=scripts/lib/release.sh
. "$ROOT/scripts/lib/release.sh"

ALIAS=contracts-latest

fail() {
  printf 'ERROR: %s\n' "$*" >&2
  exit 1
}

dry_run=false
dist=''
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=true ;;
    -*) fail "unknown option \`$1\`; see --help" ;;
    *)
      [ -z "$dist" ] || fail "one directory at most; see --help"
      dist=$1
      ;;
  esac
  shift
done
dist=${dist:-$ROOT/dist/contracts}
repository=${GITHUB_REPOSITORY:-$(github_repository)}
trigger=${DEMON_TRIGGER:-local}

force=$(truth FORCE_RELEASE) || exit 1
case $trigger in
  local | schedule | workflow_run | workflow_dispatch) ;;
  *) fail "DEMON_TRIGGER is \`$trigger\`: it is local, schedule, workflow_run or workflow_dispatch" ;;
esac
for program in gh jq git; do
  type -P "$program" >/dev/null || fail "$program is not installed"
done
have_sha256 || fail "neither shasum nor sha256sum is installed"

work=$(mktemp -d "${TMPDIR:-/tmp}/release-contracts.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# intact DIRECTORY: whether the three files are there and agree.
intact() {
  local name digest
  for name in "${RELEASE_FILES[@]}"; do
    [ -s "$1/$name" ] || return 1
  done
  check_digest_file "$1/bundle.sha256" "$1/bundle.json" 2>/dev/null || return 1
  digest=$(jq -er .bundle_sha256 "$1/manifest.json" 2>/dev/null) || return 1
  [ "$digest" = "$(sha256_of "$1/bundle.json")" ]
}

# release_state TAG: `present` or `absent`. Anything else GitHub says ends the run: guessing would release twice.
release_state() {
  local answer line
  answer=$(gh api --include "repos/$repository/releases/tags/$1" 2>"$work/error") || true
  line=${answer%%$'\n'*}
  case $line in
    HTTP/*" 200"*) echo present ;;
    HTTP/*" 404"*) echo absent ;;
    *)
      cat "$work/error" >&2
      fail "GitHub does not say whether release \`$1\` of $repository exists${line:+ ($line)}"
      ;;
  esac
}

# stored_release TAG DIRECTORY: what the release has of the three files.
stored_release() {
  mkdir "$2"
  # A release without files is one that a run before this one did not finish.
  gh release download "$1" --repo "$repository" --dir "$2" -p "*.json" -p "*.sha256" >/dev/null 2>"$work/error" || true
}

decided() {
  printf '%s\n' "$2"
  if [ -n "${GITHUB_OUTPUT:-}" ]; then
    printf 'released=%s\ntag=%s\ndigest=%s\n' "$1" "$tag" "$digest" >>"$GITHUB_OUTPUT"
  fi
  if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
    printf '%s\n' "$2" >>"$GITHUB_STEP_SUMMARY"
  fi
}

intact "$dist" || fail "\`$dist\` holds no release: run scripts/build_release_artifacts.sh"
digest=$(sha256_of "$dist/bundle.json")
git_sha=$(jq -er .git.sha "$dist/manifest.json")
tag=$(jq -er '"contracts-\(.timestamp[0:10] | gsub("-"; ""))-\(.git.sha[0:8])"' "$dist/manifest.json")
[[ $tag =~ ^contracts-[0-9]{8}-[0-9a-f]{8}$ ]] || fail "the manifest gives no tag: \`$tag\`"

# What the alias holds now decides.
alias_state=$(release_state "$ALIAS")
if [ "$alias_state" = present ]; then
  stored_release "$ALIAS" "$work/alias"
  if intact "$work/alias"; then
    released_digest=$(sha256_of "$work/alias/bundle.json")
    released_sha=$(jq -r .git.sha "$work/alias/manifest.json")
    if [ "$force" = false ] && [ "$released_sha" != "$git_sha" ] &&
      git -C "$ROOT" merge-base --is-ancestor "$git_sha" "$released_sha" 2>/dev/null; then
      decided false "Nothing to do: $ALIAS is of $released_sha, which is newer than $git_sha."
      exit 0
    fi
    if [ "$released_digest" = "$digest" ] && [ "$force" = false ] && [ "$trigger" != schedule ]; then
      decided false "Unchanged: $ALIAS has the content $digest already. FORCE_RELEASE=true releases all the same."
      exit 0
    fi
  else
    echo "$ALIAS is incomplete and will be repaired" >&2
  fi
fi

notes() {
  jq -r --arg digest "$digest" --arg tag "$1" '
    "Contract bundle \(.version)\n",
    "| | |\n|---|---|",
    "| Version | \(.version) |",
    "| Timestamp | \(.timestamp) |",
    "| Git SHA | `\(.git.sha)` |",
    "| SHA-256 | `\($digest)` |\n",
    "Files: `bundle.json`, `manifest.json`, `bundle.sha256`.\n",
    "Verify: `./scripts/validate-release.sh \($tag)`"' "$2/manifest.json"
}

if [ "$dry_run" = true ]; then
  decided false "Would release $tag with the content $digest and move $ALIAS to it."
  notes "$tag" "$dist"
  exit 0
fi

# The release of the day. What is stored stays as it is; it is completed where a run before was cut off.
files=$dist
version=$(jq -er .version "$dist/manifest.json")
if [ "$(release_state "$tag")" = present ]; then
  stored_release "$tag" "$work/stored"
  if intact "$work/stored"; then
    stored=$(sha256_of "$work/stored/bundle.json")
    [ "$stored" = "$digest" ] || fail "release \`$tag\` exists with other content: $stored, the built one has $digest"
    files=$work/stored
  else
    gh release upload "$tag" --repo "$repository" --clobber \
      "$dist/bundle.json" "$dist/bundle.sha256" "$dist/manifest.json"
  fi
else
  notes "$tag" "$dist" >"$work/notes.md"
  gh release create "$tag" --repo "$repository" --target "$git_sha" \
    --title "Contract Bundle $version ($tag)" --notes-file "$work/notes.md" \
    "$dist/bundle.json" "$dist/bundle.sha256" "$dist/manifest.json"
fi

# The alias is moved in place, so that it is never missing. The manifest goes last: whoever reads in between sees
# digests that do not agree, and so does the next run, which then repairs it.
notes "$ALIAS" "$files" >"$work/notes.md"
if [ "$alias_state" = present ]; then
  gh api --silent -X PATCH "repos/$repository/git/refs/tags/$ALIAS" -f "sha=$git_sha" -F force=true
  for name in bundle.json bundle.sha256 manifest.json; do
    gh release upload "$ALIAS" --repo "$repository" --clobber "$files/$name"
  done
  gh release edit "$ALIAS" --repo "$repository" --title "Contract Bundle (Latest)" --notes-file "$work/notes.md"
else
  gh release create "$ALIAS" --repo "$repository" --target "$git_sha" --latest=false \
    --title "Contract Bundle (Latest)" --notes-file "$work/notes.md" \
    "$files/bundle.json" "$files/bundle.sha256" "$files/manifest.json"
fi
decided true "Released $tag with the content $digest; $ALIAS points at it."
