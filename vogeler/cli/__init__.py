"""The command lines: one file each. Nothing else prints, parses arguments or exits."""
