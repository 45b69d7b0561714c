#!/bin/sh
# Debian and Ubuntu leave a file behind; Red Hat's needs-restarting answers by its exit code.
set -eu

required=no
packages=
if [ -e /run/reboot-required ]; then
    required=yes
    [ -e /run/reboot-required.pkgs ] && packages=$(sort -u /run/reboot-required.pkgs | tr '\n' ' ')
elif command -v needs-restarting >/dev/null && ! needs-restarting -r >/dev/null 2>&1; then
    required=yes
fi

echo "required: $required"
echo "packages: $packages"
echo "running kernel: $(uname -r)"
