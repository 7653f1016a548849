#!/bin/sh
. "$(dirname "$0")/../common.sh"
need bao python3
register app
port=$(port)
export BAO_ADDR="http://127.0.0.1:$port" BAO_TOKEN=root HOME="$WORK"
start bao server -dev -dev-no-store-token -dev-root-token-id=root -dev-listen-address="127.0.0.1:$port"
eventually bao status

# OpenBao verifies JWT-SVIDs with the trust domain's JWT authorities. Where it can reach a bundle
# endpoint or an OIDC provider, jwks_url follows their rotation.
"$SIGNET_SERVER" bundle show -socketPath "$SERVER_SOCKET" -output json | python3 -c '
import json, sys
for key in json.load(sys.stdin)["jwt_authorities"]:
    print("-----BEGIN PUBLIC KEY-----", key["public_key"], "-----END PUBLIC KEY-----", sep="\n")
' >"$WORK/keys.pem"
{
    bao auth enable jwt
    bao write auth/jwt/config jwt_validation_pubkeys=@"$WORK/keys.pem"
    bao policy write app - <<'P'
path "secret/data/app" { capabilities = ["read"] }
P
    bao kv put -mount=secret app password=s3cret
    bao write auth/jwt/role/app role_type=jwt user_claim=sub bound_audiences=bao \
        bound_subject="$ID/app" token_policies=app token_ttl=5m
    bao write auth/jwt/role/other role_type=jwt user_claim=sub bound_audiences=bao \
        bound_subject="$ID/other" token_policies=app
} >"$WORK/setup" || { cat "$WORK/setup"; exit 1; }
unset BAO_TOKEN

token() { "$SIGNET_AGENT" api fetch jwt -socketPath "$AGENT_SOCKET" -audience "$1" | sed -n '2{s/^[[:space:]]*//;p;}'; }
login() { bao write -field=token auth/jwt/login role="$1" jwt="$2"; }
say "Logging in with a JWT-SVID, and reading a secret"
BAO_TOKEN=$(login app "$(token bao)")
export BAO_TOKEN
works bao kv get -mount=secret -field=password app
say "In a role of somebody else"
refused 'invalid subject' login other "$(token bao)"
say "With a token for another audience"
refused 'aud' login app "$(token other)"
