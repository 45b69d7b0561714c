# /etc/hosts as YAML: every address with the list of its names. One address may be on several lines.
{ sub(/#.*/, "") }

NF > 1 {
    if (!($1 in names)) order[++count] = $1
    for (i = 2; i <= NF; i++) names[$1] = names[$1] "  - \"" $i "\"\n"
}

END {
    if (!count) print "{}"
    for (i = 1; i <= count; i++) printf "\"%s\":\n%s", order[i], names[order[i]]
}
