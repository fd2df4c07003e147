#!/usr/bin/env bash
# Builds the Java examples: build.sh OUT makes OUT/java-NAME.jar of each and their data in OUT/data/.
# The same sources give the same jars: their entries have a fixed date.
set -euo pipefail
out=$(realpath -m "${1:?usage: build.sh OUT}")
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "$out/data"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
unset JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS

for directory in */; do
    name=${directory%/}
    javac --release 17 -Xlint:all -d "$stage/$name" "$name"/*.java
    jar --create --date=2020-01-01T00:00:00Z --file "$out/java-$name.jar" -C "$stage/$name" .
done
javac --release 17 -d "$stage" MakeData.java
java -cp "$stage" MakeData "$out/data"
