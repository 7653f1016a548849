#!/bin/sh
. "$(dirname "$0")/../common.sh"
PATH="$PATH:/usr/lib/postgresql/15/bin:/usr/lib/postgresql/17/bin"
need postgres initdb psql python3

# PostgreSQL does not run as root; then everything here belongs to nobody.
AS=
if [ "$(id -u)" -eq 0 ]; then
    need setpriv
    AS="setpriv --reuid=65534 --regid=65534 --clear-groups"
    SELECTOR=unix:uid:65534
    chmod 755 "$WORK"
    cp "$SIGNET_HELPER" "$WORK/signet-helper"
    SIGNET_HELPER="$WORK/signet-helper"
fi
register db -dns localhost -hint db
register app -hint app
register stranger -hint stranger
for name in data db app stranger; do
    mkdir "$WORK/$name"
    [ "$(id -u)" -ne 0 ] || chown 65534:65534 "$WORK/$name"
done
chmod 700 "$WORK/data"

# One helper keeps all three identities, and tells PostgreSQL when they are renewed.
names='svid_file_name = "svid.pem", svid_key_file_name = "key.pem", svid_bundle_file_name = "bundle.pem"'
cat >"$WORK/helper.conf" <<C
agent_address = "$AGENT_SOCKET"
identities = [
    {hint = "db", cert_dir = "$WORK/db", $names},
    {hint = "app", cert_dir = "$WORK/app", $names},
    {hint = "stranger", cert_dir = "$WORK/stranger", $names},
]
pid_file_name = "$WORK/data/postmaster.pid"
renew_signal = "SIGHUP"
C
chmod 644 "$WORK/helper.conf"
start $AS "$SIGNET_HELPER" -config "$WORK/helper.conf"
eventually test -s "$WORK/stranger/svid.pem"

cd /
$AS initdb -U admin --auth=trust --no-sync -D "$WORK/data" >"$WORK/initdb"
# Who has a certificate of this trust domain may connect, as the user that the map says. The map
# knows a SPIFFE ID by the digest of it that the composer `uniqueid` puts into the subject.
digest=$(printf '%s' "$ID/app" | sha256sum | cut -c 1-32)
echo "local all admin trust
hostssl all all 127.0.0.1/32 cert clientname=DN map=spiffe" >"$WORK/data/pg_hba.conf"
echo "spiffe \"/^.*x500UniqueIdentifier=$digest.*\$\" app" >"$WORK/data/pg_ident.conf"
port=$(port)
start $AS postgres -D "$WORK/data" -c "port=$port" -c listen_addresses=127.0.0.1 \
    -c "unix_socket_directories=$WORK/data" -c fsync=off -c ssl=on \
    -c "ssl_cert_file=$WORK/db/svid.pem" -c "ssl_key_file=$WORK/db/key.pem" \
    -c "ssl_ca_file=$WORK/db/bundle.pem"
eventually $AS psql -X -q -h "$WORK/data" -p "$port" -U admin -d postgres -c 'create role app login'

query() {
    $AS psql -X -A -t -c "select 'hello ' || current_user" "host=localhost port=$port dbname=postgres \
        user=app sslmode=verify-full gssencmode=disable sslcert=$WORK/$1/svid.pem \
        sslkey=$WORK/$1/key.pem sslrootcert=$WORK/$1/bundle.pem"
}
say "As the workload that the map knows"
works query app
say "As another one of the trust domain"
refused 'authentication failed' query stranger
