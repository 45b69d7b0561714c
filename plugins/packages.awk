# From lines of "status <tab> name <tab> architecture <tab> version", sorted, to lines of "name=version".
#
# A package of another architecture than the node's own is "name.arch", whose own is that of dpkg or rpm itself.
# Several versions side by side (kernel, gpg-pubkey) are one value, joined by ", " in the order of the lines.
# Packages of which dpkg only keeps the configuration are not installed.

BEGIN { FS = "\t" }

NF == 4 && substr($1, 2, 1) !~ /[nc]/ {
    count++
    name[count] = $2
    arch[count] = $3
    version[count] = $4
    if ($2 == "dpkg" || $2 == "rpm") native = $3
}

function key(i) {
    if (native == "" || arch[i] == native || arch[i] ~ /^(all|noarch|\(none\))$/) return name[i]
    return name[i] "." arch[i]
}

END {
    for (i = 1; i <= count; i++) {
        k = key(i)
        if (k in versions) {
            versions[k] = versions[k] ", " version[i]
        } else {
            versions[k] = version[i]
            order[++different] = k
        }
    }
    for (i = 1; i <= different; i++) print order[i] "=" versions[order[i]]
}
