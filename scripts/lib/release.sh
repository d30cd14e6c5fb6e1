# shellcheck shell=bash
# Sourced, not run: gets the three files of a contracts release and takes their digests.
# Uses the array DEMONCTL (see demonctl.sh). Reads what a workflow passes on.

# shellcheck disable=SC2034 # used by who sources this
RELEASE_FILES=(bundle.json manifest.json bundle.sha256)

# sha256_of FILE: 64 lowercase hex digits on standard output.
sha256_of() {
  local line
  if type -P shasum >/dev/null; then
    line=$(shasum -a 256 <"$1") || return 1
  else
    line=$(sha256sum <"$1") || return 1
  fi
  printf '%s\n' "${line%% *}"
}

# have_sha256: whether there is a program for sha256_of.
have_sha256() {
  type -P shasum >/dev/null || type -P sha256sum >/dev/null
}

# release_source: `nats` or `github` on standard output; 1 where the setting names neither.
release_source() {
  local source=${DEMON_CONTRACTS_SOURCE:-nats}
  case $source in
    nats | github) printf '%s\n' "$source" ;;
    *)
      echo "DEMON_CONTRACTS_SOURCE is \`$source\`: it is \`nats\` or \`github\`" >&2
      return 1
      ;;
  esac
}

# truth NAME: `true` or `false` on standard output, of the variable NAME; 1 where it holds neither. An input of a
# workflow arrives as text, and the text "false" is not set.
truth() {
  case ${!1:-} in
    '' | 0 | [Ff]alse | FALSE | [Nn]o | NO | [Oo]ff | OFF) echo false ;;
    1 | [Tt]rue | TRUE | [Yy]es | YES | [Oo]n | ON) echo true ;;
    *)
      echo "$1 is \`${!1}\`: it is true or false" >&2
      return 1
      ;;
  esac
}

# github_repository: OWNER/NAME from GH_OWNER and GH_REPO (which may hold both, as gh's own variable does).
github_repository() {
  case ${GH_REPO:-} in
    */*) printf '%s\n' "$GH_REPO" ;;
    *) printf '%s/%s\n' "${GH_OWNER:-afewell-hh}" "${GH_REPO:-demon}" ;;
  esac
}

# download_release SOURCE TAG DIRECTORY: leaves in DIRECTORY what the release has of the three files.
download_release() {
  local source=$1 tag=$2 directory=$3
  if [ "$source" = github ]; then
    (cd "$directory" && gh release download "$tag" --repo "$(github_repository)" -p "*.json" -p "*.sha256")
  else
    "${DEMONCTL[@]}" contracts fetch-bundle --tag "$tag" --dest "$directory"
  fi
}

# check_digest_file DIGEST_FILE BUNDLE_FILE: whether the one line of the first is the digest of the second. The name
# in it is `bundle.json` in a release; a node's cache has the absolute path there instead.
check_digest_file() {
  local content actual expected name
  content=$(cat "$1") || return 1
  actual=$(sha256_of "$2") || return 1
  expected=${content%% *}
  name=${content#*  }
  case $content in
    *$'\n'*)
      echo "$(basename "$1") has more than one line" >&2
      return 1
      ;;
    *"  "*) ;;
    *)
      echo "$(basename "$1") is not \`<64 hex digits>  bundle.json\`" >&2
      return 1
      ;;
  esac
  case $name in
    bundle.json | /*/bundle.json) ;;
    *)
      echo "$(basename "$1") names \`$name\`, not bundle.json" >&2
      return 1
      ;;
  esac
  if [ "$expected" != "$actual" ]; then
    echo "$(basename "$1") says $expected, bundle.json has $actual" >&2
    return 1
  fi
}

# manifest_text MANIFEST_FILE PATH: the text at a jq path, empty where there is none. Control characters become `?`:
# they could draw on the terminal, or hide behind what is compared.
manifest_text() {
  jq -r "(try ($2) catch null) | strings | gsub(\"[[:cntrl:]]\"; \"?\")" "$1" 2>/dev/null
}

# validate_alone BUNDLE_FILE DIRECTORY: whether demonctl accepts the bundle by itself. It would also judge a manifest
# that lies beside it, which has a step of its own; so it sees a copy in DIRECTORY, which is made new.
validate_alone() {
  rm -rf "$2" && mkdir "$2" && cp "$1" "$2/bundle.json" || return 1
  (cd "$2" && "${DEMONCTL[@]}" contracts validate bundle.json)
}
