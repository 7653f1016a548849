#!/bin/sh
. "$(dirname "$0")/../common.sh"
need python3 curl
here=$(dirname "$0")
. "$here/../python/venv.sh"
register caller
port=$(port)
start "$PYTHON" -B "$here/api.py" "$port" api.example "$ID/caller"
eventually listening "$port"
token() { "$SIGNET_AGENT" api fetch jwt -socketPath "$AGENT_SOCKET" -audience "$1" | sed -n '2{s/^[[:space:]]*//;p;}'; }
call() { curl -sS --fail-with-body --max-time 20 -H "Authorization: Bearer $1" "http://127.0.0.1:$port/"; }

say "With a token for this API"
works call "$(token api.example)"
say "With a token for another one"
refused 'not valid here' call "$(token other.example)"
say "Without a token"
refused 'is needed' curl -sS --fail-with-body "http://127.0.0.1:$port/"
