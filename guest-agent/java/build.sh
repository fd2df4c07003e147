#!/usr/bin/env bash
# Builds the Java agent: OUT/hydra-agent.jar, and OUT/hydra-agent.jsa, the class-data archive that halves its start.
# Does nothing if neither the sources nor the JDK changed: the archive is valid only for the very jar it was made with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out=${1:?usage: build.sh OUT}
mkdir -p "$out"
out=$(realpath "$out")

# Variables such as JAVA_TOOL_OPTIONS would change what is built.
unset JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS

stamp=$({ java -version 2>&1; cat build.sh src/hydra/agent/*.java training/*.java; } | sha256sum)
if [[ -f $out/hydra-agent.jar && -f $out/hydra-agent.jsa && $(cat "$out/hydra-agent.stamp" 2>/dev/null) == "$stamp" ]]; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Entries of a fixed date: the same sources give the same jar.
date=2020-01-01T00:00:00Z

# Concatenation of strings inline: the JDK's default builds code for it at run time, which costs a start some milliseconds.
# What javac says is shown if it fails; it cannot be made silent about sun.misc.Unsafe, which the agent needs.
javac --release 17 -XDstringConcat=inline -d "$work/agent" src/hydra/agent/*.java 2>"$work/javac.log" || {
    cat "$work/javac.log" >&2
    exit 1
}
jar --create --date=$date --file "$work/hydra-agent.jar" -C "$work/agent" .
javac --release 17 -d "$work/hello" training/Hello.java
jar --create --date=$date --main-class Hello --file "$work/hello.jar" -C "$work/hello" .

rm -f "$out/hydra-agent.stamp" "$out/hydra-agent.jsa"
mv "$work/hydra-agent.jar" "$out/hydra-agent.jar"
java -XX:ArchiveClassesAtExit="$work/hydra-agent.jsa" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xlog:disable \
    -cp "$out/hydra-agent.jar" hydra.agent.Training "$work/hello.jar" "$work"
mv "$work/hydra-agent.jsa" "$out/hydra-agent.jsa"
echo "$stamp" >"$out/hydra-agent.stamp"
