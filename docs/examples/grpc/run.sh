#!/bin/sh
. "$(dirname "$0")/../common.sh"
need go python3
(cd "$(dirname "$0")" && go build -o "$CACHE/greeter" .)
register greeter
address="127.0.0.1:$(port)"
start "$CACHE/greeter" serve "$address" "$ID/greeter"
eventually "$CACHE/greeter" call "$address" "$ID/greeter"

say "A client that has its identity from the Workload API"
works "$CACHE/greeter" call "$address" "$ID/greeter"
say "A client that wants to speak with somebody else"
refused 'unexpected ID' "$CACHE/greeter" call "$address" "$ID/other"

# What a bootstrap file of xDS says of the helper's files.
files "$WORK/svid" 'bundle_map_file_name = "bundles.json"'
eventually test -s "$WORK/svid/bundles.json"
export GRPC_EXPERIMENTAL_XDS_MTLS_SPIFFE=true
cat >"$WORK/bootstrap.json" <<JSON
{
  "certificate_providers": {
    "spiffe": {
      "plugin_name": "file_watcher",
      "config": {
        "certificate_file": "$WORK/svid/svid.pem",
        "private_key_file": "$WORK/svid/key.pem",
        "spiffe_trust_bundle_map_file": "$WORK/svid/bundles.json",
        "refresh_interval": "60s"
      }
    }
  }
}
JSON
say "A client whose identity and bundles gRPC reads from the helper's files"
works "$CACHE/greeter" files "$address" "$ID/greeter" "$WORK/bootstrap.json"
say "The same, where the server is somebody else"
refused 'unexpected ID' "$CACHE/greeter" files "$address" "$ID/other" "$WORK/bootstrap.json"
