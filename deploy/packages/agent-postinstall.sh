#!/bin/sh
# After installation and after an upgrade, of .deb and .rpm alike.
set -e
# It is not started by its installation: it has to be told its server first. After an upgrade one
# that runs is started anew; its identity is in /var/lib/signet-agent.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart signet-agent.service
fi
