#!/bin/sh
# After installation and after an upgrade, of .deb and .rpm alike.
set -e
if ! getent group signet-oidc >/dev/null; then
    groupadd --system signet-oidc
fi
if ! getent passwd signet-oidc >/dev/null; then
    useradd --system --gid signet-oidc --home-dir /var/lib/signet-oidc --no-create-home \
        --shell /usr/sbin/nologin --comment "Signet oidc" signet-oidc
fi
# The configuration is for the program alone.
if [ -e /etc/signet/oidc.conf ]; then
    chgrp signet-oidc /etc/signet/oidc.conf
fi
# It is not started by its installation: it has to be configured first. After an upgrade one
# that runs is started anew.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart signet-oidc.service
fi
