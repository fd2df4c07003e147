#!/usr/bin/env bash
# Installs the Node agent into OUT: what is here but its tests, and the addon that fresh.js uses. What is up to date is left as it is.
set -euo pipefail
# Before the change of folder: a relative OUT is the caller's.
out=$(realpath -m "${1:?usage: build.sh OUT}")
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "$out/rehearsal"

# By renaming: agents that start meanwhile read the old file or the new one. Others may be installing there too.
put() { # FILE
    cmp -s "$1" "$out/$1" || { cp "$1" "$out/$1.$$" && mv "$out/$1.$$" "$out/$1"; }
}

for file in *.js *.json rehearsal/*; do put "$file"; done
if ! cmp -s reseed.c "$out/reseed.c" || [[ ! -e $out/reseed.node ]]; then
    cc -O2 -Wall -Wextra -Werror -fPIC -fvisibility=hidden -shared -s -o "$out/reseed.node.$$" reseed.c
    mv "$out/reseed.node.$$" "$out/reseed.node"
    put reseed.c
fi
for file in "$out"/*.js; do
    [[ -e ${file##*/} ]] || rm -f "$file"
done
