#!/bin/sh
. "$(dirname "$0")/../common.sh"
need openssl curl python3
register you -dns localhost
mkdir "$WORK/svid"
works "$SIGNET_AGENT" api fetch x509 -socketPath "$AGENT_SOCKET" -write "$WORK/svid" -silent
cd "$WORK/svid"

say "What the certificate says"
works openssl x509 -in svid.0.pem -noout -ext subjectAltName -enddate
say "It is one of the trust domain's"
works openssl verify -CAfile bundle.0.pem svid.0.pem
say "and of no other"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout other.key \
    -out other.pem -subj /CN=other -days 1 2>/dev/null
refused 'unable to get\|verification failed' openssl verify -CAfile other.pem svid.0.pem

port=$(port)
start openssl s_server -accept "127.0.0.1:$port" -cert svid.0.pem -key svid.0.key \
    -CAfile bundle.0.pem -Verify 2 -verify_return_error -www -quiet
eventually listening "$port"
call() { curl -sS --max-time 20 --cacert bundle.0.pem -o page "$@" "https://localhost:$port/"; }
say "curl with the certificate"
works call --cert svid.0.pem --key svid.0.key
grep -i 'Verify return code' page | head -n 1
say "curl without it"
refused 'curl:' call
