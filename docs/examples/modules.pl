#!/usr/bin/perl
# /proc/modules without the counts and addresses, which change while nothing else does.
use strict;
use warnings;

print "NAME BYTES USED_BY\n";
exit 0 unless -e "/proc/modules";    # a kernel without modules has none loaded
open(my $modules, "<", "/proc/modules") or die "/proc/modules: $!\n";
for my $line (sort <$modules>) {
    my ($name, $bytes, $count, $used_by) = split " ", $line;
    $used_by =~ s/,$//;
    print join(" ", $name, $bytes, join(",", sort split(/,/, $used_by))), "\n";
}
