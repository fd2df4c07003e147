#!/usr/bin/env bash
# Sends COUNT requests (a million, if none is given) to one copy of a snapshot of each language, and checks that nothing grows:
# memory, descriptors, threads. `soak.sh 20000` takes a minute or two.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
count=${1:-1000000}
cd "$root"
./build.sh
HYDRA_SOAK_REQUESTS=$count HYDRA_BINARY="$root/target/release/hydra" cargo test --test e2e -- --ignored --nocapture --test-threads 1 soak::
