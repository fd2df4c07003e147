# How the scripts show progress. Sourced; the caller has set `root`.
# shellcheck shell=bash disable=SC2154

# A line for the user. Standard output is left to what the user asked for.
say() { printf 'hydra: %s\n' "$*" >&2; }

# TITLE COMMAND… Runs a command whose output is of interest only when it fails. One that takes long says so, and then every
# 15 seconds what it is at.
quietly() {
    local title=$1 log status=0 ticker started=$SECONDS
    shift
    mkdir -p "$root/target/log"
    log="$root/target/log/$(tr -cs 'a-zA-Z0-9' '-' <<<"$title" | sed 's/-*$//').log"
    : >"$log"
    report_progress "$title" "$log" &
    ticker=$!
    "$@" >"$log" 2>&1 </dev/null || status=$?
    kill "$ticker" 2>/dev/null
    wait "$ticker" 2>/dev/null || true
    if ((status)); then
        say "$title: failed after $((SECONDS - started)) s"
        tail -n 200 "$log" >&2
        say "(the whole output: $log)"
    elif ((SECONDS - started >= 15)); then
        say "$title: done in $((SECONDS - started)) s"
    fi
    ((status == 0))
}

report_progress() { # TITLE LOG
    local started=$SECONDS doing wait=2
    while true; do
        # Waits on a pipe that nobody writes to: a `sleep` would outlive this, and keep the user's own pipe open.
        read -rt "$wait" <> <(:) || true
        # The script that started this is gone without having stopped it.
        kill -0 $$ 2>/dev/null || return 0
        if ((wait == 2)); then
            say "$1 …"
        else
            doing=$(tail -n 1 "$2" | tr -d '\r' | cut -c 1-70 | sed 's/^ *//')
            say "$1: $((SECONDS - started)) s${doing:+ ($doing)}"
        fi
        wait=15
    done
}
