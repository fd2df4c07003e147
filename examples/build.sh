#!/usr/bin/env bash
# Builds the example functions' artifacts and their input data into target/examples/. Languages whose tools are missing are left out, with a word.
set -euo pipefail
# Before the change of folder: a relative OUT is the caller's.
out=$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/../target/examples}")
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "$out/data"

need() { for tool in "$@"; do command -v "$tool" >/dev/null 2>&1 || return 1; done; }
build() { # LANGUAGE TOOL…
    local language=$1
    shift
    if need "$@"; then
        "./$language/build.sh" "$out"
    else
        echo "examples: $language left out: needs $*" >&2
    fi
}

build python python3
build javascript node npm
build java javac jar
