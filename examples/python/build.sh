#!/usr/bin/env bash
# Builds the Python functions: build.sh OUT puts python-NAME.zip of each, with the packages it uses, and the input data into OUT.
set -euo pipefail
# Before the change of folder: a relative OUT is the caller's.
out=$(realpath "${1:?usage: build.sh OUT}")
cd "$(dirname "${BASH_SOURCE[0]}")"

# The Python that will run the functions, rather than a version manager's shim: packages are built for one version.
python=/usr/bin/python3
[ -x "$python" ] || python=$(command -v python3)
if ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "examples: $python has no pip, which bundles the functions' packages: apt-get install python3-pip" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out/data"
"$python" make_data.py "$out/data"

for main in */main.py; do
    name=$(dirname "$main")
    tree=$work/$name
    cp -r "$name" "$tree"
    rm -rf "$tree/__pycache__"
    case $name in bfs | mst | pagerank) cp shared/graph.py "$tree/" ;; esac
    if [ -f "$tree/requirements.txt" ]; then
        "$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-compile --no-deps \
            --only-binary :all: --target "$tree" --requirement "$tree/requirements.txt"
        rm -rf "${tree:?}/bin"
    fi
    # Compiled ahead: where a function runs, its directory is read-only.
    "$python" -m compileall -q --invalidation-mode unchecked-hash "$tree"
    (cd "$tree" && "$python" -m zipfile -c "$work/$name.zip" ./*)
    mv "$work/$name.zip" "$out/python-$name.zip"
done
zips=("$out"/python-*.zip)
echo "examples: python: ${#zips[@]} functions in $out"
