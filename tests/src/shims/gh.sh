#!/usr/bin/env bash
# Stands for GitHub's command line: serves releases, tags and runs from the directory `github` beside it.
# Knows what the playbook, the scripts and the workflow ask it for; anything else ends with 2.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
github=$here/github
printf '%s\x1f' "$@" >>"$here/calls/gh"
printf '\n' >>"$here/calls/gh"

unknown() {
  echo "gh shim: this call is not known: $*" >&2
  exit 2
}
refused() {
  echo "$*" >&2
  exit 1
}
if [ -e "$github/unreachable" ]; then
  refused "error connecting to the test's GitHub"
fi

all=("$@")
tag='' repository='' directory=. pattern_count=0 clobber=false limit=30 event='' created='' workflow=''
title='' notes='' target='' method=GET field_sha='' patterns=() files=() words=()
while [ $# -gt 0 ]; do
  case $1 in
    --repo | -R) repository=$2; shift ;;
    --dir | -D) directory=$2; shift ;;
    --pattern | -p) patterns+=("$2"); pattern_count=$((pattern_count + 1)); shift ;;
    --clobber) clobber=true ;;
    --limit | -L) limit=$2; shift ;;
    --limit=*) limit=${1#*=} ;;
    --event=*) event=${1#*=} ;;
    --created=*) created=${1#*=} ;;
    --workflow=*) workflow=${1#*=} ;;
    --title) title=$2; shift ;;
    --notes-file) notes=$(cat "$2"); shift ;;
    --target) target=$2; shift ;;
    --latest=false | --silent | --include) ;;
    -X) method=$2; shift ;;
    -f | -F)
      case $2 in
        sha=*) field_sha=${2#sha=} ;;
      esac
      words+=("$2")
      shift
      ;;
    -*) unknown "${all[@]}" ;;
    *) words+=("$1") ;;
  esac
  shift
done
if [ -n "$repository" ] && [ "$repository" != "$(cat "$github/repository")" ]; then
  refused "HTTP 404: Not Found (repos/$repository)"
fi

release=''
find_release() {
  tag=$1
  release=$github/releases/$tag
  [ -d "$release" ] || refused "release not found"
}
upload() {
  local file name
  for file in "$@"; do
    name=$(basename "$file")
    if [ "$clobber" = false ] && [ -e "$release/assets/$name" ]; then
      refused "asset under the same name already exists: [$name]"
    fi
    if [ "${GH_SHIM_FAIL_UPLOAD:-}" = "$tag/$name" ]; then
      refused "error uploading $name"
    fi
    cp "$file" "$release/assets/$name"
  done
}
describe() {
  if [ -n "$title" ]; then printf '%s\n' "$title" >"$release/title"; fi
  if [ -n "$notes" ]; then printf '%s\n' "$notes" >"$release/notes"; fi
}

case "${words[0]:-} ${words[1]:-}" in
  "release list")
    # Newest first, as made.
    while IFS= read -r name; do
      printf '%s\t\t%s\t%s\n' "$(cat "$github/releases/$name/title")" "$name" "$(cat "$github/releases/$name/published")"
    done < <(head -n "$limit" <(tac "$github/order"))
    ;;
  "release view")
    find_release "${words[2]}"
    printf 'title:\t%s\ntag:\t%s\npublished:\t%s\n' "$(cat "$release/title")" "$tag" "$(cat "$release/published")"
    for file in "$release"/assets/*; do printf 'asset:\t%s\n' "$(basename "$file")"; done
    ;;
  "release download")
    find_release "${words[2]}"
    [ "$pattern_count" -gt 0 ] || patterns=("*")
    found=0
    for file in "$release"/assets/*; do
      [ -e "$file" ] || continue
      name=$(basename "$file")
      for pattern in "${patterns[@]}"; do
        # shellcheck disable=SC2053 # the right side is a pattern
        [[ $name == $pattern ]] || continue
        if [ "$clobber" = false ] && [ -e "$directory/$name" ]; then
          refused "$name already exists (use \`--clobber\` to overwrite file or \`--skip-existing\` to skip file)"
        fi
        cp "$file" "$directory/$name"
        found=$((found + 1))
        break
      done
    done
    [ "$found" -gt 0 ] || refused "no assets match the file pattern"
    ;;
  "release create")
    tag=${words[2]}
    files=("${words[@]:3}")
    release=$github/releases/$tag
    [ ! -e "$release" ] || refused "a release with the same tag name already exists: $tag"
    mkdir -p "$release/assets"
    # A name that lies before `assets`, so that a failed upload leaves a release without its files.
    printf '%s\n' "$tag" >>"$github/order"
    date -u +%Y-%m-%dT%H:%M:%SZ >"$release/published"
    printf '%s\n' "$tag" >"$release/title"
    describe
    printf '%s\n' "$target" >"$github/tags/$tag"
    upload "${files[@]}"
    printf 'https://github.com/%s/releases/tag/%s\n' "$(cat "$github/repository")" "$tag"
    ;;
  "release upload")
    find_release "${words[2]}"
    upload "${words[@]:3}"
    ;;
  "release edit")
    find_release "${words[2]}"
    describe
    ;;
  "workflow run")
    [ "${words[2]}" = contracts-release.yml ] || refused "could not find any workflows named ${words[2]}"
    number=$(($(wc -l <"$github/runs") + 1))
    printf 'queued\t\tContract Bundle Release\tContract Bundle Release\tmain\tworkflow_dispatch\t%s\t0s\t%s\n' \
      "$number" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >>"$github/runs"
    printf '%s\n' "${words[@]:3}" >"$github/inputs"
    printf '✓ Created workflow_dispatch event for %s at main\n' "${words[2]}"
    ;;
  "run list")
    [ "$workflow" = contracts-release.yml ] || refused "could not find any workflows named $workflow"
    tac "$github/runs" | awk -F '\t' -v event="$event" -v created="$created" -v limit="$limit" '
      (event == "" || $6 == event) && (created == "" || index($9, created) == 1) && listed < limit { listed++; print }'
    ;;
  "auth status")
    [ -e "$github/signed-in" ] || refused "You are not logged into any GitHub hosts. To log in, run: gh auth login"
    echo "github.com: logged in"
    ;;
  "api repos/"*"/releases/tags/"*)
    tag=${words[1]##*/}
    if [ -d "$github/releases/$tag" ]; then
      printf 'HTTP/2.0 200 OK\nContent-Type: application/json\n\n{"tag_name":"%s"}\n' "$tag"
    else
      printf 'HTTP/2.0 404 Not Found\nContent-Type: application/json\n\n{"message":"Not Found"}\n'
      refused "gh: Not Found (HTTP 404)"
    fi
    ;;
  "api repos/"*"/git/refs/tags/"*)
    [ "$method" = PATCH ] || unknown "${all[@]}"
    tag=${words[1]##*/}
    [ -e "$github/tags/$tag" ] || refused "gh: Reference does not exist (HTTP 422)"
    printf '%s\n' "$field_sha" >"$github/tags/$tag"
    ;;
  *) unknown "${all[@]}" ;;
esac
