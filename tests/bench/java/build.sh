#!/usr/bin/env bash
# Builds the Java functions and the JDK's server: build.sh OUT makes OUT/work.jar.
set -euo pipefail
out=$(realpath -m "${1:?usage: build.sh OUT}")
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "$out"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
unset JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS
javac --release 17 -Xlint:all -d "$stage" ./*.java
jar --create --date=2020-01-01T00:00:00Z --file "$out/work.jar" -C "$stage" .
