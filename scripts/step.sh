# Sourced by the scripts: runs named steps, shows where it is and for how long, and ends with a table.
# shellcheck shell=bash

STEP_NAMES=()
STEP_SECONDS=()
STEP_RESULTS=()

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# step NAME COMMAND...: runs the command; its failure ends the script after the table.
step() {
    local name=$1 began=$SECONDS result=0
    shift
    say "$name"
    "$@" || result=$?
    STEP_NAMES+=("$name")
    STEP_SECONDS+=($((SECONDS - began)))
    STEP_RESULTS+=("$result")
    printf -- '-- %s: %s after %d s\n' "$name" "$([ "$result" = 0 ] && echo ok || echo "failed ($result)")" \
        $((SECONDS - began))
    return "$result"
}

step_table() {
    printf '\n%-28s %8s  %s\n' step seconds result
    local index
    for index in "${!STEP_NAMES[@]}"; do
        printf '%-28s %8d  %s\n' "${STEP_NAMES[$index]}" "${STEP_SECONDS[$index]}" \
            "$([ "${STEP_RESULTS[$index]}" = 0 ] && echo ok || echo failed)"
    done
}

# need COMMAND PACKAGE: installs the Debian package when the command is not there.
need() {
    command -v "$1" >/dev/null 2>&1 && return 0
    command -v apt-get >/dev/null 2>&1 || fail "$1 is missing, and there is no apt-get to install $2"
    say "installing $2 (for $1)"
    local run=()
    [ "$(id -u)" = 0 ] || run=(sudo)
    "${run[@]}" apt-get install -y --no-install-recommends "$2" >/dev/null 2>&1 ||
        { "${run[@]}" apt-get update >/dev/null && "${run[@]}" apt-get install -y --no-install-recommends "$2" >/dev/null; } ||
        fail "cannot install $2"
    command -v "$1" >/dev/null 2>&1 || fail "$2 does not bring $1"
}
