#!/usr/bin/env bash
# Builds Hydra into target/: the programs, and the agents beside them. What is up to date is left as it is.
#   build.sh            for use (target/release)
#   build.sh --debug    for work on Hydra (target/debug), with the tests
#   build.sh --bench    for use, and the benchmarks
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=builder/steps.sh
source "$root/builder/steps.sh"
# shellcheck source=builder/tools.sh
source "$root/builder/tools.sh"

main() {
    local profile=release programs=(hydra hydra-agent-native hydra-demo)
    case "$*" in
        "") ;;
        --debug) profile=debug ;;
        --bench) programs+=(hydra-bench) ;;
        *)
            say "build.sh takes no argument but --debug or --bench"
            exit 2
            ;;
    esac
    require_rust
    require c
    build_programs "$profile" "${programs[@]}"
    install_file "$root/target/$profile/hydra-agent-native" "$root/target/agents/native/hydra-agent-native"
    build_python_agent
    quietly "building the Node agent" "$root/guest-agent/javascript/build.sh" "$root/target/agents/javascript"
    build_java_agent
}

build_programs() { # PROFILE PROGRAM…
    local profile=$1 options=(--workspace --locked)
    shift
    # Of the whole workspace, so that all are built of the same crates with the same features. The tests bring further features:
    # without them, all that stands on those crates would be built once more for `cargo test`.
    if [[ $profile == release ]]; then options+=(--release "${@/#/--bin=}"); else options+=(--all-targets); fi
    cd "$root"
    # Whatever the user's own settings are, the programs have to be where the agents are looked for.
    CARGO_TARGET_DIR="$root/target" quietly "building ($profile)" cargo build "${options[@]}"
}

# Replaces a file that differs. By renaming: a running program cannot be written to.
install_file() { # SOURCE DESTINATION
    cmp -s "$1" "$2" && return
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.new"
    mv "$2.new" "$2"
}

# Replaces a folder that differs; an agent's tests stay behind.
install_folder() { # SOURCE DESTINATION
    diff -rq --exclude=tests --exclude=__pycache__ "$1" "$2" >/dev/null 2>&1 && return
    rm -rf "$2.new"
    mkdir -p "$2.new"
    tar -C "$1" --exclude=./tests --exclude=__pycache__ -cf - . | tar -C "$2.new" -xf -
    rm -rf "$2"
    mv "$2.new" "$2"
}

# Agents write no bytecode: many start at once, and most in a jail. Without any, each would compile its modules, and keep more memory.
build_python_agent() {
    local agent=$root/target/agents/python python
    install_folder "$root/guest-agent/python" "$agent"
    # For the one that Hydra takes. The folder is replaced when a source changes: nothing has to be checked at each start.
    for python in /usr/bin/python3 python3; do
        python_is_new_enough "$python" || continue
        quietly "compiling the Python agent" "$python" -m compileall -q --invalidation-mode unchecked-hash "$agent/hydra_agent"
        break
    done
}

# Its own script leaves alone what neither the sources nor the JDK have changed.
build_java_agent() {
    if has java; then
        quietly "building the Java agent" "$root/guest-agent/java/build.sh" "$root/target/agents/java" ||
            say "the Java agent is left out: it could not be built"
    else
        # One of an earlier JDK would not start.
        rm -rf "$root/target/agents/java"
        say "the Java agent is left out: $(describe java) is missing"
    fi
}

main "$@"
