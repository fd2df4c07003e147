#!/usr/bin/env bash
# Builds the agent and tests it: the JSON parser in a JVM, all else by the protocol with real agent processes.
# Usage: run.sh [TEST…], TEST as in "test_host.Host.test_exit_ends_only_its_isolate". Ends with "N passed, N failed".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS

../build.sh "$work/agent"

build=$work/functions
mkdir -p "$build/functions" "$build/packaged" "$build/tree/lib" "$build/newer"
javac --release 17 -d "$build/functions" functions/{Functions,Broken,Program}.java
echo data >"$build/functions/data.txt"
jar --create --file "$build/functions.jar" -C "$build/functions" .
javac --release 17 -d "$build/packaged" functions/Packaged.java
jar --create --main-class com.example.Packaged --file "$build/packaged.jar" -C "$build/packaged" .
cp "$build/packaged.jar" "$build/tree/lib/"
echo "no jar" >"$build/text.jar"
# A class file of a Java that does not exist yet: its major version is in bytes 6 and 7.
cp "$build/functions/Program.class" "$build/newer/Program.class"
printf '\x00\xff' | dd of="$build/newer/Program.class" bs=1 seek=6 conv=notrunc status=none
cp "$build/newer/Program.class" "$build/newer.class"

../../../examples/java/build.sh "$work/examples"

mkdir "$work/json"
javac --release 17 -cp "$work/agent/hydra-agent.jar" -d "$work/json" JsonTest.java
if (($# == 0)); then
    json=$(java -Xshare:auto -XX:TieredStopAtLevel=1 -cp "$work/agent/hydra-agent.jar:$work/json" hydra.agent.JsonTest || true)
else
    json="0 passed, 0 failed"
fi
echo "JSON: ${json:0:4000}"

python=python3
[[ ! -x /usr/bin/python3 ]] || python=/usr/bin/python3
HYDRA_TEST_AGENT=$work/agent HYDRA_TEST_FUNCTIONS=$build HYDRA_TEST_EXAMPLES=$work/examples \
    PYTHONDONTWRITEBYTECODE=1 "$python" run.py "${json##*$'\n'}" "$@"
