#!/usr/bin/env bash
# Requests per second of a registered function of a running Hydra, over HTTP alone, with ab: a new connection for each request.
# Usage: throughput.sh FUNCTION [REQUESTS] [CONNECTIONS…]    HYDRA is the URL (http://localhost:8080), ARGUMENTS the arguments as JSON
set -euo pipefail
(($# >= 1)) || { sed -n '3s/^# //p' "$0" >&2; exit 2; }
function=$1 requests=${2:-2000}
shift $(($# < 2 ? $# : 2))
(($#)) || set -- 1 2 4 8
arguments=${ARGUMENTS:-\{\}}
url=${HYDRA:-http://localhost:8080}

body=$(mktemp)
trap 'rm -f "$body"' EXIT
printf '{"name": "%s", "arguments": %s}' "$function" "$arguments" >"$body"
curl --fail-with-body -sS -o /dev/null -d @"$body" "$url/"
printf '%11s %11s %9s %9s\n' connections requests/s "p50 ms" "p99 ms"
for connections in "$@"; do
    report=$(ab -q -l -n "$requests" -c "$connections" -T application/json -p "$body" "$url/")
    if grep -Eq '^(Failed requests: +[1-9]|Non-2xx responses:)' <<<"$report"; then
        grep -E '^(Failed requests|Non-2xx responses):' <<<"$report" >&2
        exit 1
    fi
    awk -v connections="$connections" '
        /^Requests per second:/ { rate = $4 }
        $1 == "50%" { p50 = $2 }
        $1 == "99%" { p99 = $2 }
        END { printf "%11d %11.0f %9d %9d\n", connections, rate, p50, p99 }' <<<"$report"
done
