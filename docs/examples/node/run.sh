#!/bin/sh
. "$(dirname "$0")/../common.sh"
need node python3
here=$(dirname "$0")
register greeter
files "$WORK/certs"
port=$(port)
start node "$here/greeter.js" serve "$WORK/certs" "$port" "$ID/greeter"
eventually listening "$port"

say "A client that the server knows, and that knows the server"
works node "$here/greeter.js" call "$WORK/certs" "$port" "$ID/greeter"
say "A client that wants to speak with somebody else"
refused 'the server is' node "$here/greeter.js" call "$WORK/certs" "$port" "$ID/other"
