#!/usr/bin/env bash
# Builds the Java agent: OUT/hydra-agent.jar, and OUT/hydra-agent.jsa, a class-data archive with the JDK's and the agent's classes,
# which makes its start faster; OUT/rehearsal.jar, the function that it rehearses with; and OUT/flags.json, the JVM's flags.
# Does nothing if nothing changed. The archive is valid only for this very jar, at this path, with this JDK: to install the agent
# elsewhere, run this there.
set -euo pipefail
# Before the change of folder: a relative OUT is the caller's.
out=$(realpath -m "${1:?usage: build.sh OUT}")
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "$out"
# Others may be installing there too: who comes second waits, and finds it done.
exec {lock}<"$out"
flock "$lock"

# Variables such as JAVA_TOOL_OPTIONS would change what is built.
unset JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS

# Hydra reads the JVM's flags beside the jar.
cmp -s flags.json "$out/flags.json" || cp flags.json "$out/flags.json"

inputs() { java -version 2>&1; cat build.sh src/hydra/agent/*.java src/org/crac/*.java training/*.java; }
# The archive names the jar's path and time, so both are part of what it depends on.
stamp() { { inputs; stat -c '%n %Y' "$out/hydra-agent.jar"; } | sha256sum; }
if [[ -f $out/rehearsal.jar && -f $out/hydra-agent.jar && -f $out/hydra-agent.jsa && $(cat "$out/hydra-agent.stamp" 2>/dev/null) == "$(stamp)" ]]; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Entries of a fixed date: the same sources give the same jar.
date=2020-01-01T00:00:00Z

# Concatenation of strings inline: the JDK's default builds code for it at run time, which costs a start some milliseconds.
# What javac says is shown if it fails; it cannot be made silent about sun.misc.Unsafe, which the agent needs.
javac --release 17 -XDstringConcat=inline -d "$work/agent" src/hydra/agent/*.java src/org/crac/*.java 2>"$work/javac.log" || {
    cat "$work/javac.log" >&2
    exit 1
}
jar --create --date=$date --file "$work/hydra-agent.jar" -C "$work/agent" .
javac --release 17 -d "$work/hello" training/Hello.java
jar --create --date=$date --main-class Hello --file "$work/hello.jar" -C "$work/hello" .

javac --release 17 -d "$work/rehearsal" training/Rehearsal.java
jar --create --date=$date --file "$work/rehearsal.jar" -C "$work/rehearsal" .

rm -f "$out/hydra-agent.stamp" "$out/hydra-agent.jsa"
mv "$work/rehearsal.jar" "$out/rehearsal.jar"
mv "$work/hydra-agent.jar" "$out/hydra-agent.jar"
# A static archive, not a dynamic one on top of the JDK's: 3 MB less private memory in every process.
# G1, whatever the processes use: only with it JDK 17 archives heap objects.
java -XX:DumpLoadedClassList="$work/classes" -Xlog:disable \
    -cp "$out/hydra-agent.jar" hydra.agent.Training "$work/hello.jar" "$work"
java -Xshare:dump -XX:SharedClassListFile="$work/classes" -XX:SharedArchiveFile="$work/hydra-agent.jsa" -XX:+UseG1GC \
    -Xlog:disable -cp "$out/hydra-agent.jar"
mv "$work/hydra-agent.jsa" "$out/hydra-agent.jsa"
stamp >"$out/hydra-agent.stamp"
