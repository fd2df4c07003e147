#!/usr/bin/env bash
# What one more instance of a function occupies in a running Hydra: CALLERS invocations at once, and the memory before and after.
# Usage: density.sh FUNCTION PID [CALLERS] [ARGUMENTS]    PID is Hydra's; the function must hold its callers, e.g. sleep for a second;
#                                                         HYDRA is the URL (http://localhost:8080)
set -euo pipefail
(($# >= 2)) || { sed -n '3,4s/^# //p' "$0" >&2; exit 2; }
function=$1 pid=$2 callers=${3:-16} arguments=${4:-\{\}}
url=${HYDRA:-http://localhost:8080}

# KiB of Hydra and all that it started; shared pages count in parts.
memory() {
    local sum=0 pss process=("$pid") next=0
    while ((next < ${#process[@]})); do
        pss=$(awk '/^Pss:/ { print $2 }' "/proc/${process[next]}/smaps_rollup" 2>/dev/null || true)
        sum=$((sum + ${pss:-0}))
        mapfile -t -O ${#process[@]} process < <(cat "/proc/${process[next]}"/task/*/children 2>/dev/null | tr ' ' '\n' | grep . || true)
        next=$((next + 1))
    done
    echo "$sum"
}

# Sandboxes that are idle, once none is busy or starting.
idle() {
    local description
    for ((tries = 0; tries < 100; tries++)); do
        description=$(curl --fail-with-body -sS "$url/functions/$function")
        if grep -q '"busy":0,"starting":0' <<<"$description"; then
            grep -o '"idle":[0-9]*' <<<"$description" | cut -d: -f2
            return
        fi
        sleep 0.1
    done
    echo "Hydra does not come to rest" >&2
    return 1
}

invoke() {
    printf '{"name": "%s", "arguments": %s}' "$function" "$arguments" |
        curl --fail-with-body -sS -o /dev/null -d @- "$url/"
}

invoke
before=$(idle) used=$(memory)
for ((caller = 0; caller < callers; caller++)); do invoke & done
wait
after=$(idle) now=$(memory)
echo "$before instances: $((used / 1024)) MiB; $after instances: $((now / 1024)) MiB"
if ((after > before)); then
    awk -v kib=$((now - used)) -v more=$((after - before)) 'BEGIN { printf "one more instance: %.2f MiB\n", kib / 1024 / more }'
else
    echo "there are no more instances: register the function with a larger 'concurrency', and give it arguments with which it takes a while" >&2
    exit 1
fi
