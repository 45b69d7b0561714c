#!/bin/sh
# Installed packages as lines of name=version, from dpkg or else from rpm.
# The lists are kept in a variable, so that a broken database fails the script and isn't an empty list.
set -eu

if command -v dpkg-query >/dev/null && [ -s "${DPKG_ADMINDIR:-/var/lib/dpkg}/status" ]; then
    list=$(dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\n')
else
    list=$(rpm -qa --qf 'ii\t%{NAME}\t%{ARCH}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\n')
fi
printf '%s\n' "$list" | LC_ALL=C sort -u | awk -f "$(dirname "$0")/packages.awk"
