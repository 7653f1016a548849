#!/bin/sh
# After installation and after an upgrade, of .deb and .rpm alike.
set -e
if ! getent group signet-server >/dev/null; then
    groupadd --system signet-server
fi
if ! getent passwd signet-server >/dev/null; then
    useradd --system --gid signet-server --home-dir /var/lib/signet-server --no-create-home \
        --shell /usr/sbin/nologin --comment "Signet server" signet-server
fi
# The configuration may name secrets (a database's password): for the server alone.
if [ -e /etc/signet/server.conf ]; then
    chgrp signet-server /etc/signet/server.conf
fi
# It is not started by its installation: it has to be told its trust domain first. After an upgrade
# one that runs is started anew; its authorities and entries are in /var/lib/signet-server.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart signet-server.service
fi
