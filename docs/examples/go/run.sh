#!/bin/sh
. "$(dirname "$0")/../common.sh"
need go python3
(cd "$(dirname "$0")" && go build -o "$CACHE/greeter" .)
register greeter
address="127.0.0.1:$(port)"
start "$CACHE/greeter" serve "$address" "$ID/greeter"
eventually "$CACHE/greeter" call "$address" "$ID/greeter"

say "A client that the server knows, and that knows the server"
works "$CACHE/greeter" call "$address" "$ID/greeter"
say "A client that wants to speak with somebody else"
refused 'unexpected ID' "$CACHE/greeter" call "$address" "$ID/other"
