#!/usr/bin/env bash
# The steps of `./hydra test`: each with a title and its time, all of them even where one fails, and a summary.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
# shellcheck source=builder/steps.sh
source "$root/builder/steps.sh"
# shellcheck source=builder/tools.sh
source "$root/builder/tools.sh"

# The version that deny.toml is written for.
readonly cargo_deny_version=0.20.2

# Each step: what it checks. They run in this order.
readonly steps=(fmt clippy shell dependencies advisories python javascript java rust vm demo)
# Steps that take long, and run only where they are named.
readonly further_steps=(cpython)
declare -rA titles=(
    [fmt]="the Rust code is formatted (rustfmt)"
    [clippy]="the Rust code has no warnings (clippy)"
    [shell]="the shell scripts have no warnings (shellcheck)"
    [dependencies]="the crates' licences and sources are as deny.toml allows (cargo-deny)"
    [advisories]="no crate has a known hole (cargo-deny, with the RustSec database)"
    [python]="the Python agent's tests"
    [javascript]="the JavaScript agent's tests"
    [java]="the Java agent's tests"
    [rust]="the Rust unit and end-to-end tests"
    [vm]="the microVM on a hardware KVM, in an emulated machine (a part; tests/vm/run does all)"
    [demo]="the demo"
    [cpython]="all modules of CPython's own tests that must pass in a microVM (\`rust\` runs the quick ones)"
)

main() {
    local wanted=("$@") step
    for step in "$@"; do
        case $step in
            -h | --help | help)
                help
                exit
                ;;
        esac
        if [[ -z ${titles[$step]:-} ]]; then
            say "there is no step '$step'; ./hydra test --help lists them"
            exit 2
        fi
    done
    ((${#wanted[@]})) || wanted=("${steps[@]}")
    export CARGO_TARGET_DIR="$root/target"
    cd "$root"
    require_rust
    require c
    for step in "${wanted[@]}"; do run "$step"; done
    summarise
}

help() {
    local step
    echo "Usage: ./hydra test [STEP…]"
    echo
    for step in "${steps[@]}"; do printf '  %-13s %s\n' "$step" "${titles[$step]}"; done
    echo
    echo "Only where they are named:"
    for step in "${further_steps[@]}"; do printf '  %-13s %s\n' "$step" "${titles[$step]}"; done
    echo
    echo "A step whose tools are missing and cannot be installed is skipped; with HYDRA_REQUIRE_ALL=1 that is a failure."
}

summary=()
failures=0

# A step is a function: 0 is passed, 77 is skipped with the reason in `skipped_because`, 78 the same where nothing on this
# machine could help, anything else is failed.
run() { # STEP
    local step=$1 status=0 started=$SECONDS outcome
    skipped_because=""
    say "test $step: ${titles[$step]}"
    "test_$step" || status=$?
    case $status in
        0) outcome=passed ;;
        77)
            outcome="skipped: $skipped_because"
            if [[ ${HYDRA_REQUIRE_ALL:-} == 1 ]]; then
                outcome="FAILED, not to be skipped: $skipped_because"
                failures=$((failures + 1))
            fi
            ;;
        78) outcome="skipped: $skipped_because" ;;
        *)
            outcome=FAILED
            failures=$((failures + 1))
            ;;
    esac
    summary+=("$(printf '%-13s %4d s  %s' "$step" $((SECONDS - started)) "$outcome")")
}

summarise() {
    printf '%s\n' "${summary[@]}"
    if ((failures)); then
        echo "$failures of ${#summary[@]} steps failed"
        exit 1
    fi
}

skip() {
    skipped_because=$1
    return 77
}

# TOOL… Skips the step where one cannot be had.
needs() {
    local tool
    provide "$@" && return
    for tool in "$@"; do has "$tool" || skip "$(describe "$tool") is missing; as root: $(install_command "$tool")" || return; done
}

test_fmt() { quietly "rustfmt" cargo fmt --all --check; }

test_clippy() { quietly "clippy" cargo clippy --workspace --all-targets --locked -- -D warnings; }

test_shell() {
    needs shellcheck || return
    local scripts
    mapfile -t scripts < <(shell_scripts)
    quietly "shellcheck" shellcheck --external-sources "${scripts[@]}"
}

# By their first line or name, so that none is forgotten.
shell_scripts() {
    grep -rlIE --exclude-dir={target,node_modules,.git} '^#!.*\b(bash|sh)$' "$root"
    find "$root/builder" -name '*.sh' ! -perm -u+x
}

test_dependencies() {
    provide_cargo_deny || return
    quietly "cargo-deny" "$root/target/tools/bin/cargo-deny" check licenses bans sources
}

test_advisories() {
    provide_cargo_deny || return
    if ! timeout 20 git ls-remote --quiet https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
        skipped_because="the RustSec database cannot be reached"
        return 78
    fi
    quietly "cargo-deny, advisories" "$root/target/tools/bin/cargo-deny" check advisories
}

# Without optimisation: it takes a minute to build and runs for two seconds.
provide_cargo_deny() {
    local deny="$root/target/tools/bin/cargo-deny"
    [[ -x $deny && $("$deny" --version) == "cargo-deny $cargo_deny_version" ]] && return
    # A folder of its own: the workspace's build does not have to be done again after it.
    CARGO_TARGET_DIR="$root/target/tools/build" quietly "building cargo-deny" cargo install cargo-deny \
        --version "$cargo_deny_version" --locked --force --profile dev --config profile.dev.debug=0 --root "$root/target/tools" ||
        return
    rm -rf "$root/target/tools/build"
}

test_python() {
    needs python || return
    (cd "$root/guest-agent/python" && quietly "Python tests" python3 -m unittest discover -s tests)
}

test_javascript() {
    needs javascript || return
    (cd "$root/guest-agent/javascript" && quietly "JavaScript tests" node --test tests/*.test.js)
}

test_java() {
    needs java || return
    quietly "Java tests" "$root/guest-agent/java/tests/run.sh"
}

# The end-to-end tests use the agents and the examples as they are built for use.
test_rust() {
    local lacking=()
    provide_runtimes
    provide_example_tools
    provide curl ab || lacking+=("curl or ab ($(install_command curl ab))")
    # Programs that run in a microVM as they do natively.
    local guests=(busybox sqlite3 openssl perl xz zstd go)
    provide "${guests[@]}" || lacking+=("programs to run in a microVM ($(install_command "${guests[@]}"))")
    provide cpython-tests || lacking+=("CPython 3.11's test suite ($(install_command cpython-tests))")
    "$root/build.sh" --debug && quietly "building the example functions" "$root/examples/build.sh" || return
    provide_graalvm_library || lacking+=("a GraalVM library (tests/fixtures/native/saxon/build.sh cannot have it from PyPI)")
    cargo_test || return
    lacking+=("${!left_out[@]}")
    ((${#lacking[@]} == 0)) || skip "passed, but without ${lacking[*]}"
}

# A function in a library of GraalVM native-image, made once: it is 40 MB to download.
provide_graalvm_library() {
    local script="$root/tests/fixtures/native/saxon/build.sh" out="$root/target/saxon"
    if ! [[ $out/xpath.zip -nt $script && $out/xpath.zip -nt $(dirname "$script")/xpath.c ]]; then
        has python-packages && quietly "building the GraalVM library" "$script" "$out" || return
    fi
    export HYDRA_SAXON_ZIP="$out/xpath.zip"
}

cargo_test() {
    if cargo nextest --version >/dev/null 2>&1; then
        quietly "Rust tests" cargo nextest run --profile whole --test-threads $((2 * $(nproc) + 1)) --workspace --locked --no-tests=pass --no-fail-fast &&
            quietly "Rust documentation tests" cargo test --workspace --locked --doc
    else
        quietly "Rust tests" cargo test --workspace --locked --no-fail-fast
    fi
}

test_demo() { "$root/hydra" demo; }

test_vm() {
    local status=0
    provide qemu busybox cpio || true
    "$root/tests/vm/run" --quick || status=$?
    ((status == 77)) && skipped_because="the emulated machine cannot be set up; tests/vm/run says what is missing"
    return "$status"
}

test_cpython() {
    needs cpython-tests || return
    quietly "CPython's tests" cargo test --workspace --locked --test cpython -- --include-ignored
}

main "$@"
