# Which tools a build, a language or a test needs, and the Debian packages that bring them. Sourced, after steps.sh.
# shellcheck shell=bash

# Languages that cannot run here: their name and why.
declare -A left_out=()

# The packages that bring a tool on Debian and its relatives.
declare -rA packages=(
    [c]="gcc libc6-dev"
    [python]="python3"
    [python-packages]="python3-pip python3-venv"
    [javascript]="nodejs"
    [npm]="npm"
    [java]="default-jdk-headless"
    [ab]="apache2-utils"
    [curl]="curl"
    [runsc]="runsc"
    [shellcheck]="shellcheck"
    [cpython-tests]="libpython3.11-testsuite"
    [qemu]="qemu-system-x86"
    [busybox]="busybox-static"
    [cpio]="cpio"
    [sqlite3]="sqlite3"
    [openssl]="openssl"
    [perl]="perl"
    [xz]="xz-utils"
    [zstd]="zstd"
    [go]="golang-go"
)

# Whether a tool is here.
has() {
    case $1 in
        c) command -v cc >/dev/null ;;
        python) python_is_new_enough python3 ;;
        python-packages) python3 -c 'import pip, venv, ensurepip' 2>/dev/null ;;
        javascript) command -v node >/dev/null ;;
        # A module of the suite: Debian has what runs it in the standard library.
        cpython-tests) /usr/bin/python3.11 -c 'import test.test_struct' 2>/dev/null ;;
        qemu) command -v qemu-system-x86_64 >/dev/null ;;
        java) javac -version >/dev/null 2>&1 && command -v java >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

python_is_new_enough() { # PYTHON
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# How a tool is called in a message.
describe() {
    case $1 in
        c) echo "a C compiler and linker (cc)" ;;
        python) echo "Python 3.11 or newer (python3)" ;;
        python-packages) echo "Python's pip and venv" ;;
        javascript) echo "Node.js (node)" ;;
        java) echo "a JDK (java, javac)" ;;
        qemu) echo "QEMU (qemu-system-x86_64)" ;;
        cpython-tests) echo "CPython 3.11's test suite" ;;
        *) echo "$1" ;;
    esac
}

# TOOL… Installs those that are missing, where that is allowed. False where one is still missing.
provide() {
    local tool missing=()
    for tool in "$@"; do has "$tool" || missing+=("$tool"); done
    ((${#missing[@]} == 0)) && return 0
    may_install || return 1
    local names=()
    for tool in "${missing[@]}"; do read -ra names <<<"${names[*]} ${packages[$tool]}"; done
    if ! lists_are_here; then quietly "reading the package lists" as_root apt-get update || return 1; fi
    # Lists may be older than the packages that the mirror still has.
    install_packages "${names[@]}" ||
        { quietly "reading the package lists" as_root apt-get update && install_packages "${names[@]}"; } || return 1
    hash -r
    for tool in "${missing[@]}"; do has "$tool" || return 1; done
}

# TOOL… The one command that installs them.
install_command() {
    local tool names=()
    for tool in "$@"; do has "$tool" || names+=("${packages[$tool]}"); done
    echo "apt-get install --yes ${names[*]}"
}

# TOOL… Ends the script where one of them cannot be had.
require() {
    local tool
    provide "$@" && return
    for tool in "$@"; do
        has "$tool" || say "$(describe "$tool") is missing"
    done
    say "as root, this installs what is missing: $(install_command "$@")"
    exit 1
}

require_rust() {
    if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo ]]; then
        PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
    fi
    command -v cargo >/dev/null && return
    say "Rust is missing (cargo); https://rustup.rs says how to install it: curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    exit 1
}

# LANGUAGE TOOL… Leaves out a language whose tools cannot be had. Always true: one language less is no failure.
provide_language() {
    local language=$1 tool lacking=""
    shift
    [[ -n ${left_out[$language]:-} ]] && return
    provide "$@" && return
    for tool in "$@"; do
        has "$tool" || lacking+="${lacking:+ and }$(describe "$tool")"
    done
    left_out[$language]="$lacking is missing; as root: $(install_command "$@")"
    say "$language is left out: ${left_out[$language]}"
}

# What functions run on.
provide_runtimes() {
    provide_language python python
    provide_language javascript javascript
    provide_language java java
}

# What the example functions are built with, beside what they run on.
provide_example_tools() {
    provide_language python python-packages
    provide_language javascript npm
}

# HYDRA_NO_INSTALL=1 keeps Hydra from changing the system.
may_install() {
    [[ ${HYDRA_NO_INSTALL:-} != 1 ]] && command -v apt-get >/dev/null &&
        { ((EUID == 0)) || sudo -n true 2>/dev/null; }
}

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

lists_are_here() { compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; }

install_packages() {
    quietly "installing $*" as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}
