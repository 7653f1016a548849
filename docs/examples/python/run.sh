#!/bin/sh
. "$(dirname "$0")/../common.sh"
need python3
here=$(dirname "$0")
. "$here/../python/venv.sh"
register greeter
address="127.0.0.1:$(port)"
greeter() { "$PYTHON" -B "$here/greeter.py" "$@"; }
start "$PYTHON" -B "$here/greeter.py" serve "$address" "$ID/greeter"
eventually greeter call "$address" "$ID/greeter"

say "A client that the server knows, and that knows the server"
works greeter call "$address" "$ID/greeter"
say "A client that wants to speak with somebody else"
refused 'TLS connection failed' greeter call "$address" "$ID/other"
