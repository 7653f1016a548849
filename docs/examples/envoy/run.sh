#!/bin/sh
. "$(dirname "$0")/../common.sh"
need envoy curl python3
register web -dns localhost
register client -hint client
register stranger -hint stranger
port=$(port) backend=$(port)
mkdir "$WORK/site" && echo "hello from a plain service" >"$WORK/site/index.html"
start python3 -m http.server --bind 127.0.0.1 --directory "$WORK/site" "$backend"
sed -e "s|PORT|$port|; s|BACKEND|$backend|; s|ADMIN|$(port)|; s|SOCKET|$AGENT_SOCKET|; s|ID/|$ID/|" \
    "$(dirname "$0")/envoy.yaml" >"$WORK/envoy.yaml"
start envoy --concurrency 1 --disable-hot-restart -l warning -c "$WORK/envoy.yaml"
files "$WORK/client" 'hint = "client"'
files "$WORK/stranger" 'hint = "stranger"'
call() {
    who=$1
    curl -sS --fail-with-body --max-time 20 --cacert "$WORK/client/bundle.pem" \
        --cert "$WORK/$who/svid.pem" --key "$WORK/$who/key.pem" "https://localhost:$port/"
}
eventually call client

say "A client that RBAC allows"
works call client
say "One of the trust domain that it does not"
refused 'RBAC: access denied' call stranger
say "One without a certificate"
refused 'curl:' \
    curl -sS --max-time 20 --cacert "$WORK/client/bundle.pem" "https://localhost:$port/"
