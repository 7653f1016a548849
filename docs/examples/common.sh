# What the examples share. `cargo xtask example NAME` starts a server and an agent and runs
# NAME/run.sh with these set:
#
#   SIGNET_SERVER, SIGNET_AGENT, SIGNET_HELPER   the programs
#   SERVER_SOCKET, AGENT_SOCKET                  the server's API and the Workload API
#   TRUST_DOMAIN, NODE_ID                        the trust domain, and the agent's alias
#   WORK                                         an empty directory
#   CACHE                                        what was built stays here

set -eu
export SPIFFE_ENDPOINT_SOCKET="unix://$AGENT_SOCKET"
ID="spiffe://$TRUST_DOMAIN"
SELECTOR="unix:uid:$(id -u)"

say() { printf '\n== %s\n' "$*"; }

# need PROGRAM...: leaves the example, with exit code 77, where one is not installed.
need() {
    for program in "$@"; do
        command -v "$program" >/dev/null || { echo "not installed: $program" >&2; exit 77; }
    done
}

# register PATH [FLAG...]: registers you, or whom SELECTOR names, as ID/PATH.
register() {
    path=$1
    shift
    "$SIGNET_SERVER" entry create -socketPath "$SERVER_SOCKET" -parentID "$NODE_ID" \
        -spiffeID "$ID/$path" -selector "$SELECTOR" "$@" >/dev/null
    [ "$SELECTOR" != "unix:uid:$(id -u)" ] || eventually served "$ID/$path"
}

served() { "$SIGNET_AGENT" api fetch x509 -socketPath "$AGENT_SOCKET" 2>&1 | grep -q "$1"; }

# eventually COMMAND...: tries for a minute.
eventually() {
    tries=300
    until "$@" >"$WORK/tried" 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "never succeeded: $*" >&2; cat "$WORK/tried" >&2; exit 1; }
        sleep 0.2
    done
}

# works COMMAND...: it has to succeed; what it prints is shown.
works() {
    "$@" || { echo "FAILED: $*" >&2; exit 1; }
}

# refused TEXT COMMAND...: it has to fail, and to say TEXT.
refused() {
    text=$1
    shift
    if "$@" >"$WORK/refusal" 2>&1; then
        echo "NOT REFUSED: $*" >&2
        exit 1
    fi
    grep -qi -- "$text" "$WORK/refusal" || { echo "not refused by '$text':" >&2; cat "$WORK/refusal" >&2; exit 1; }
    grep -i -m 1 -- "$text" "$WORK/refusal" | cut -c 1-200 | sed 's/^/refused: /'
}

# start COMMAND...: runs it until the example ends.
start() {
    "$@" >>"$WORK/log" 2>&1 &
    STARTED="${STARTED:-} $!"
}

finish() {
    code=$?
    for pid in ${STARTED:-}; do kill "$pid" 2>/dev/null || true; done
    wait
    [ "$code" -eq 0 ] || [ "$code" -eq 77 ] || { [ ! -f "$WORK/log" ] || tail -n 30 "$WORK/log" >&2; }
    exit "$code"
}
trap finish EXIT

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
listening() { python3 -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1)' "$1"; }

# files DIR [LINE...]: keeps you in files below DIR, with more lines of the helper's configuration.
files() {
    dir=$1
    shift
    mkdir -p "$dir"
    {
        printf 'agent_address = "%s"\ncert_dir = "%s"\n' "$AGENT_SOCKET" "$dir"
        printf 'svid_file_name = "svid.pem"\nsvid_key_file_name = "key.pem"\nsvid_bundle_file_name = "bundle.pem"\n'
        printf '%s\n' "$@"
    } >"$dir/helper.conf"
    start "$SIGNET_HELPER" -config "$dir/helper.conf"
    eventually test -s "$dir/svid.pem"
}
