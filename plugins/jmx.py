"""The plugin ``jmx``: the JMX port of every Java machine on the node, from its command line.

Several per node; without process ids, so that a restart is no change. Nothing else of the command line is
kept, because there may be passwords in it; ``--raw`` prints what ``parse`` is given, for a bug report.
"""

from __future__ import annotations

import json
import sys
from pathlib import PurePath
from typing import Any

import psutil

JMX = "com.sun.management.jmxremote."
_JAVA = ("java", "javaw", "jsvc", "jsvc.exec")
# What an application server calls this instance; the first that is set.
_NAMES = ("jboss.node.name", "jboss.server.name", "weblogic.Name", "catalina.base", "karaf.instances", "app.name")
# Options of java(1) whose value is the next word.
_WITH_VALUE = ("-cp", "-classpath", "--class-path", "-p", "--module-path", "--upgrade-module-path",
               "--add-modules", "--limit-modules", "--add-reads", "--add-exports", "--add-opens",
               "--patch-module", "--enable-native-access", "--source",
               "-user", "-pidfile", "-outfile", "-errfile", "-procname", "-home", "-jvm", "-cwd", "-umask")  # fmt: skip


def parse(text: str) -> list[dict[str, Any]]:
    """Sorted ``{port, name, main, user, ssl, authenticate}``, from lines of JSON: ``[user, [argv...]]``."""
    found = [_machine(user, argv) for user, argv in map(json.loads, text.splitlines()) if _is_java(argv)]
    return sorted((m for m in found if m is not None), key=lambda m: (m["port"], m["name"], m["user"] or ""))


def _is_java(argv: list[str]) -> bool:
    return bool(argv) and PurePath(argv[0]).name in _JAVA


def _machine(user: str | None, argv: list[str]) -> dict[str, Any] | None:
    at, main = _main(argv)
    properties = dict(word[2:].partition("=")[::2] for word in argv[1:at] if word.startswith("-D"))
    port = properties.get(JMX + "port", "")
    if not port.isdigit():
        return None
    name = next((properties[key] for key in _NAMES if properties.get(key)), main)
    return {
        "port": int(port),
        "name": PurePath(name).name,
        "main": main,
        "user": user,
        "ssl": properties.get(JMX + "ssl", "true").lower() == "true",
        "authenticate": properties.get(JMX + "authenticate", "true").lower() == "true",
    }


def _main(argv: list[str]) -> tuple[int, str]:
    """Where the program begins in the command line, and its class, module or jar file."""
    at = 1
    while at < len(argv):
        word = argv[at]
        if word in ("-jar", "-m", "--module"):
            program = "".join(argv[at + 1 : at + 2])
            return at, PurePath(program).name if word == "-jar" else program
        if not word.startswith(("-", "@")):
            return at, word
        at += 2 if word in _WITH_VALUE else 1
    return at, ""


def raw() -> str:
    """User and command line of every Java process we may look at, as ``parse`` takes them."""
    processes = psutil.process_iter(["username", "cmdline"])
    rows = ((process.info["username"], process.info["cmdline"] or []) for process in processes)
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows if _is_java(row[1]))
    return lines.encode("utf-8", "replace").decode()  # a command line can hold any bytes


if __name__ == "__main__":
    text = raw()
    print(text if "--raw" in sys.argv else json.dumps(parse(text), indent=1))
