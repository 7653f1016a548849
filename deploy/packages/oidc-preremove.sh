#!/bin/sh
# Before a removal; not before an upgrade, which Debian calls with "upgrade" and RPM with 1.
set -e
case "${1:-}" in upgrade | 1) exit 0 ;; esac
if [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now signet-oidc.service || true
fi
