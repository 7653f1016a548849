#!/bin/sh
# After installation and after an upgrade, of .deb and .rpm alike.
set -e
if ! getent group signet-broker >/dev/null; then
    groupadd --system signet-broker
fi
if ! getent passwd signet-broker >/dev/null; then
    useradd --system --gid signet-broker --home-dir /var/lib/signet-broker --no-create-home \
        --shell /usr/sbin/nologin --comment "Signet broker" signet-broker
fi
# The configuration is for the program alone.
if [ -e /etc/signet/broker.conf ]; then
    chgrp signet-broker /etc/signet/broker.conf
fi
if [ -e /etc/signet/broker-policy.hcl ]; then
    chgrp signet-broker /etc/signet/broker-policy.hcl
fi
# It is not started by its installation: it has to be configured first. After an upgrade one
# that runs is started anew.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart signet-broker.service
fi
