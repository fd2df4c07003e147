#!/usr/bin/env bash
# How long a running Hydra takes to answer from a fresh sandbox, beside a warm one: over HTTP alone, with curl.
# Usage: restore.sh FUNCTION [RUNS] [ARGUMENTS]    FUNCTION is registered; ARGUMENTS are JSON; HYDRA is the URL (http://localhost:8080)
set -euo pipefail
(($# >= 1)) || { sed -n '3s/^# //p' "$0" >&2; exit 2; }
function=$1 runs=${2:-50} arguments=${3:-\{\}}
url=${HYDRA:-http://localhost:8080}

# CACHED: prints the milliseconds of one invocation and how its sandbox was started. The connection is not in the time.
invoke() {
    local body headers
    body=$(printf '{"name": "%s", "arguments": %s, "cached": "%s"}' "$function" "$arguments" "$1")
    headers=$(curl --fail-with-body -sS -o /dev/null -D - -w 'time: %{time_total} %{time_connect}\n' -d "$body" "$url/") ||
        { curl -sS -d "$body" "$url/" >&2; exit 1; }
    awk '/^time:/ { ms = ($2 - $3) * 1000 }
         tolower($1) == "server-timing:" && match($0, /start;[^,]*desc="[^"]*"/) {
             how = substr($0, RSTART, RLENGTH); sub(/.*desc="/, "", how); sub(/"/, "", how)
         }
         END { printf "%.3f %s\n", ms, how }' <<<"$headers"
}

invoke true >/dev/null
for ((run = 0; run < runs; run++)); do
    invoke false
    # Once after the fresh one, which takes the place of one that is there, and once more: the second is warm.
    invoke true >/dev/null
    invoke true
done | sort -k2,2 -k1,1n | awk '
    function print_start() {
        if (n) printf "%-10s %6d %9.2f %9.2f %9.2f\n", start, n, at(0.5), at(0.9), at(0.99)
    }
    function at(q,  rank) { rank = int(q * n); return times[rank < q * n ? rank + 1 : rank] }
    BEGIN { printf "%-10s %6s %9s %9s %9s\n", "start", "runs", "p50 ms", "p90", "p99" }
    $2 != start { print_start(); start = $2; n = 0 }
    { times[++n] = $1 }
    END { print_start() }'
