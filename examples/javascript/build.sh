#!/usr/bin/env bash
# Builds the JavaScript examples: build.sh OUT makes OUT/javascript-NAME.zip of each and its data in OUT/data/.
set -euo pipefail
out=$(realpath "${1:?usage: build.sh OUT}")
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "$out/data"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

for package in */package.json; do
    name=${package%/package.json}
    mkdir "$stage/$name"
    find "$name" -maxdepth 1 -type f -exec cp {} "$stage/$name/" \;
    (cd "$stage/$name" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
    # Nothing that runs: documentation, types, maps, tests, command-line tools.
    [[ ! -d $stage/$name/node_modules ]] || (
        cd "$stage/$name/node_modules"
        rm -rf .bin .package-lock.json
        find . -depth \( -iname '*.md' -o -iname '*.map' -o -iname '*.ts' -o -iname '*.min.js' -o -iname '*.gz' -o -iname '.*rc' \
            -o -type d \( -name test -o -name tests -o -name docs -o -name bin -o -name wrappers -o -name .github \) \) -exec rm -rf {} +
    )
done
node make-data.js "$out/data" "$stage/thumbnail"

for package in */package.json; do
    name=${package%/package.json}
    node make-zip.js "$stage/$name" "$out/javascript-$name.zip"
done
