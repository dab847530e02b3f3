# Sourced by guest-image: gets Debian packages with apt, which checks their signatures.
# shellcheck shell=bash disable=SC2154 # the variables are those of guest-image

apt_cache() { apt-cache "${apt_options[@]}" "$@"; }

# Without root the system's lists cannot be renewed, so renewed ones are kept in the output folder.
use_private_lists() {
    local state=$cache/apt
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    apt_options+=(-o Dir::State="$state" -o Dir::State::lists=lists
        -o Dir::State::status=/var/lib/dpkg/status -o Dir::Cache="$state")
}

renew_package_lists() {
    [[ -z $lists_renewed ]] || return 0
    step "renewing the package lists"
    [[ $EUID -eq 0 ]] || use_private_lists
    # One unreachable list of many is no failure here: what is needed is looked up next.
    quietly apt-get "${apt_options[@]}" update ||
        echo "guest-image: warning: apt-get update failed; going on with the lists there are" >&2
    lists_renewed=1
}

# Runs a command that looks packages up and downloads them, again with renewed lists if it fails.
with_current_lists() {
    [[ -z $refresh ]] || renew_package_lists
    "$@" && return
    [[ -z $lists_renewed ]] || fail "the packages cannot be found or downloaded"
    renew_package_lists
    "$@" || fail "the packages cannot be found or downloaded"
}

checksum() {
    local sum _
    read -r sum _ < <(sha256sum "$1")
    echo "$sum"
}

unpack() {
    local name=$1 folder=$2
    mkdir -p "$folder"
    dpkg-deb --extract "$cache/$name.deb" "$folder" || fail "cannot unpack $name"
}

# --- single packages --------------------------------------------------------------------------

# Prints "NAME VERSION" of the package that a kernel meta package stands for.
resolve_kernel() {
    local depends
    depends=$(apt_cache show --no-all-versions "$1" 2> /dev/null |
        sed -n 's/^Depends: //p' | head -n 1) || return 1
    [[ $depends =~ (linux-image-[^ ,]+)\ \(=\ ([^\)]+)\) ]] || return 1
    echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
}

# Prints "NAME VERSION" of the version that apt would install.
resolve_package() {
    local version
    version=$(apt_cache policy "$1" 2> /dev/null | sed -n 's/^  Candidate: //p') || return 1
    [[ -n $version && $version != "(none)" ]] || return 1
    echo "$1 $version"
}

# Downloads NAME VERSION into the cache and adds its line to the list being made.
download_package() {
    local name=$1 version=$2 folder=$work/download file
    rm -rf "$folder" && mkdir "$folder" || return 1
    (cd "$folder" && quietly apt-get "${apt_options[@]}" download "$name=$version") || return 1
    file=$(cd "$folder" && ls ./*.deb) || return 1
    mv -f "$folder/$file" "$cache/$name.deb" || return 1
    echo "$name $version $(checksum "$cache/$name.deb")" >> "$work/packages"
}

# --- sets of packages -------------------------------------------------------------------------
#
# What a root disk is made of: the named packages and all that they depend on. The .deb files are in
# cache/archives under apt's own names, NAME_VERSION_ARCHITECTURE.deb with %3a for a colon.

# Prints the files that apt would download for a system with nothing installed.
resolve_set() {
    apt-get "${apt_options[@]}" -o Dir::State::status=/dev/null -o Debug::NoLocking=1 \
        install --no-install-recommends --yes --print-uris "$@" 2> "$work/log" |
        sed -n "s/^'[^']*' \([^ ]*\.deb\) .*/\1/p" | sort
}

# Prints "NAME VERSION" of a .deb file's name.
package_of_file() {
    local name=${1%%_*} version=${1#*_}
    version=${version%_*}
    echo "$name ${version//%3a/:}"
}

# Downloads those of the files that are not there. apt compares what it gets with the signed lists.
download_files() {
    local file name version missing=()
    for file; do
        [[ ! -f $cache/archives/$file ]] || continue
        read -r name version < <(package_of_file "$file")
        missing+=("$name=$version")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    step "downloading ${#missing[@]} packages"
    rm -rf "$work/download" && mkdir "$work/download" || return 1
    (cd "$work/download" && quietly apt-get "${apt_options[@]}" download "${missing[@]}") ||
        return 1
    # All or nothing: a file in the archives is a whole one.
    mv -f "$work/download"/*.deb "$cache/archives/"
}

# resolve_and_download_set LEFT_OUT PACKAGE...; LEFT_OUT is a regular expression for names.
resolve_and_download_set() {
    local left_out=$1 file files=() name version
    shift
    while read -r file; do
        [[ ${file%%_*} =~ ^($left_out)$ ]] || files+=("$file")
    done < <(resolve_set "$@")
    [[ ${#files[@]} -gt 0 ]] || { tail -n 5 "$work/log" >&2; return 1; }
    download_files "${files[@]}" || return 1
    for file in "${files[@]}"; do
        read -r name version < <(package_of_file "$file")
        [[ -f $cache/archives/$file ]] || return 1
        echo "$name $version $(checksum "$cache/archives/$file") $file"
    done > "$work/set"
}

set_is_cached() {
    local name version sum file
    [[ -s $1 ]] || return 1
    while read -r name version sum file; do
        [[ -f $cache/archives/$file && $(checksum "$cache/archives/$file") == "$sum" ]] || return 1
    done < "$1"
}

# Gets a set; its lines "NAME VERSION SHA256 FILE" are then in $work/set.
# get_package_set NAME LEFT_OUT PACKAGE...
get_package_set() {
    local list=$cache/$1.packages wanted_set
    wanted_set=$(printf '%s\n' "$@" | sha256sum)
    shift
    mkdir -p "$cache/archives"
    if [[ -z $refresh && -f $list.wanted && $(< "$list.wanted") == "$wanted_set" ]] &&
        set_is_cached "$list"; then
        cp "$list" "$work/set"
    else
        step "looking up ${*:2}"
        with_current_lists resolve_and_download_set "$@"
        rm -f "$list.wanted"
        cp "$work/set" "$list"
        echo "$wanted_set" > "$list.wanted"
        drop_unused_archives
    fi
    cut -d ' ' -f 1-3 "$work/set" > "$work/packages"
}

# Removes the .deb files that no set names any more.
drop_unused_archives() {
    local file
    for file in "$cache"/archives/*.deb; do
        grep -qF " ${file##*/}" "$cache"/*.packages || rm -f "$file"
    done
}

# --- build tools ------------------------------------------------------------------------------

install_packages() {
    local as_root=() log
    step "installing $*"
    log=$(mktemp)
    [[ $EUID -eq 0 ]] || as_root=(sudo -n)
    local install=("${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 install -y
        --no-install-recommends "$@")
    if ! "${install[@]}" > "$log" 2>&1; then
        "${as_root[@]}" apt-get update > "$log" 2>&1 || true
        if ! "${install[@]}" >> "$log" 2>&1; then
            tail -n 20 "$log" >&2
            rm -f "$log"
            fail "cannot install $*: run as root: apt-get install $*"
        fi
    fi
    rm -f "$log"
}

# require_commands COMMAND PACKAGE [COMMAND PACKAGE]...
require_commands() {
    local missing=()
    current_step="checking the tools"
    while [[ $# -gt 0 ]]; do
        command -v "$1" > /dev/null || missing+=("$2")
        shift 2
    done
    [[ ${#missing[@]} -eq 0 ]] || install_packages "${missing[@]}"
}
