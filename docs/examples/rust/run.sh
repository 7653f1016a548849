#!/bin/sh
. "$(dirname "$0")/../common.sh"
need python3
# Its dependencies are those of the end-to-end tests, so it is an example of theirs.
if [ -z "${GREETER:-}" ]; then
    cargo build -q --locked -p e2e --example greeter
    GREETER="$(dirname "$SIGNET_AGENT")/examples/greeter"
fi
register greeter
address="127.0.0.1:$(port)"
start "$GREETER" serve "$address" "$ID/greeter"
eventually "$GREETER" call "$address" "$ID/greeter"

say "A client that the server knows, and that knows the server"
works "$GREETER" call "$address" "$ID/greeter"
say "A client that wants to speak with somebody else"
refused 'invalid peer certificate\|unauthorized\|authoriz' "$GREETER" call "$address" "$ID/other"
