#!/bin/sh
# Installs, upgrades and removes packages on this very system, seen through an overlay that is thrown
# away: nothing outside of it changes.
#
#   unshare --mount --pid --fork install.sh PACKAGES WORK OLD NEW
#
# PACKAGES holds .deb and .rpm of versions OLD and NEW. Each line "ok: …" is a promise that held.
set -eu

if [ "${INSIDE:-}" != 1 ]; then
    packages=$1 work=$2
    mount --make-rprivate /
    mount -t tmpfs tmpfs "$work"
    mkdir "$work/upper" "$work/work" "$work/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
    mount -t proc proc "$work/root/proc"
    mount --rbind /dev "$work/root/dev"
    for dir in run tmp mnt; do mount -t tmpfs tmpfs "$work/root/$dir"; done
    chmod 1777 "$work/root/tmp"
    cp "$packages"/*.deb "$packages"/*.rpm "$0" "$work/root/mnt/"
    INSIDE=1 exec chroot "$work/root" /mnt/"$(basename "$0")" "$@"
fi

old=$3 new=$4
cd /mnt
export DEBIAN_FRONTEND=noninteractive
# A machine of today's cargo caches and tools is no new machine.
rm -rf /etc/signet /var/lib/signet-server /var/lib/signet-agent

ok() { echo "ok: $*"; }
as_server="setpriv --reuid signet-server --regid signet-server --init-groups"
start_server() {
    # What systemd makes by StateDirectory= and RuntimeDirectory=.
    install -d -o signet-server -g signet-server -m 0700 /var/lib/signet-server
    install -d -o signet-server -g signet-server -m 0750 /run/signet-server
    $as_server /usr/bin/signet-server validate -config /etc/signet/server.conf
    $as_server /usr/bin/signet-server run -config /etc/signet/server.conf >>/tmp/server.log 2>&1 &
    server=$!
    wait_for signet-server healthcheck
}
start_agent() {
    install -d -m 0700 /var/lib/signet-agent
    install -d -m 0755 /run/signet-agent
    /usr/bin/signet-agent validate -config /etc/signet/agent.conf
    /usr/bin/signet-agent run -config /etc/signet/agent.conf "$@" >>/tmp/agent.log 2>&1 &
    agent=$!
    wait_for signet-agent healthcheck -socketPath /run/signet-agent/public/api.sock
}
stop() {
    kill "$agent" "$server"
    wait "$agent" "$server" || true
}
wait_for() {
    tries=0
    until "$@" >/tmp/wait.log 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 150 ]; then
            cat /tmp/wait.log /tmp/server.log /tmp/agent.log >&2 || true
            exit 1
        fi
        sleep 0.2
    done
}
svid() { signet-agent api fetch x509 -socketPath /run/signet-agent/public/api.sock; }

# From nothing to a served workload.
apt-get install -qy "./signet-server_${old}_amd64.deb" "./signet-agent_${old}_amd64.deb"
getent passwd signet-server | grep -q nologin
[ "$(stat -c '%U:%G %a' /etc/signet/server.conf)" = "root:signet-server 640" ]
[ ! -e /var/lib/signet-server ]
gzip -t /usr/share/man/man8/signet-server.8.gz
bash -n /usr/share/bash-completion/completions/signet-agent
for unit in server agent; do
    if command -v systemd-analyze >/dev/null; then
        systemd-analyze verify --man=no --recursive-errors=no \
            "/usr/lib/systemd/system/signet-$unit.service" 2>&1 | grep -i "signet" && exit 1
    fi
done
ok installed
start_server
signet-server bundle show > /etc/signet/bundle.pem
token=$(signet-server token generate -spiffeID spiffe://example.org/node | sed 's/Token: //')
sed -i 's/server\.example\.org/localhost/' /etc/signet/agent.conf
start_agent -joinToken "$token"
signet-server entry create -parentID spiffe://example.org/node \
    -spiffeID spiffe://example.org/workload -selector unix:uid:0 >/dev/null
wait_for svid
svid | grep -q spiffe://example.org/workload
ok served

# An upgrade keeps configuration, authorities, entries and the node's identity.
before=$(signet-server bundle show | sha256sum; signet-server agent list | grep 'SPIFFE ID')
apt-get install -qy "./signet-server_${new}_amd64.deb" "./signet-agent_${new}_amd64.deb"
grep -q localhost /etc/signet/agent.conf
dpkg-query -W -f '${Version}\n' signet-agent | grep -qx "$new"
stop
start_server
start_agent
after=$(signet-server bundle show | sha256sum; signet-server agent list | grep 'SPIFFE ID')
[ "$before" = "$after" ]
wait_for svid
svid | grep -q spiffe://example.org/workload
ok upgraded
stop

# What holds identities outlives the packages.
apt-get purge -qy signet-server signet-agent
[ -d /var/lib/signet-server ] && [ -d /var/lib/signet-agent ]
[ ! -e /usr/bin/signet-server ]
ok removed

rpm -i --nodeps "signet-server_${old}_amd64.rpm" "signet-agent_${old}_amd64.rpm"
[ "$(stat -c '%U:%G %a' /etc/signet/server.conf)" = "root:signet-server 640" ]
sed -i 's/server\.example\.org/localhost/' /etc/signet/agent.conf
rpm -U --nodeps "signet-server_${new}_amd64.rpm" "signet-agent_${new}_amd64.rpm"
grep -q localhost /etc/signet/agent.conf
start_server
signet-server bundle show > /etc/signet/bundle.pem
start_agent
[ "$before" = "$(signet-server bundle show | sha256sum; signet-server agent list | grep 'SPIFFE ID')" ]
ok moved to rpm
stop
rpm -e signet-server signet-agent
[ ! -e /usr/bin/signet-agent ]
ok rpm removed
