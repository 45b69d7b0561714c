"""Plugin files: what is in them is understood, and what is wrong with them is said with file, line and remedy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vogeler import plugins
from vogeler.errors import PluginError
from vogeler.plugins import KEYS, PATH, Loaded

from .conftest import Make, Write

FILES_OF_2010 = {
    "rpms.cfg": """\
[rpm]
name = rpm
description = Grabs packages installed on a system using rpm
command = rpm -qa
result_format = output
command_alias = get_rpms
""",
    "facter.cfg": """\
[facter]
name = facter
description = Uses facter to return facts
command = facter -y
result_format = yaml
command_alias = get_facts
""",
    "ohai.cfg": """\
[ohai]
name = ohai
description = Uses ohai to return system information
command = ohai
result_format = json
command_alias = ohai
""",
    "ps.cfg": """\
[ps]
name = ps
description = Grabs currently running processes
command = ps -ef
result_format = output
command_alias = get_procs
""",
}


def only_problem(loaded: Loaded) -> PluginError:
    assert len(loaded.problems) == 1, loaded.problems
    return loaded.problems[0]


def test_the_files_of_2010_load_unchanged(write: Write) -> None:
    for name, content in FILES_OF_2010.items():
        directory = write(name, content).parent
    loaded = plugins.load([directory])
    assert loaded.problems == ()
    assert [(p.name, p.alias, p.command, p.result_format, p.key) for p in loaded.plugins] == [
        ("facter", "get_facts", ("facter", "-y"), "yaml", "facter"),
        ("ohai", "ohai", ("ohai",), "json", "ohai"),
        ("ps", "get_procs", ("ps", "-ef"), "output", "ps"),
        ("rpm", "get_rpms", ("rpm", "-qa"), "output", "rpm"),
    ]


def test_a_plugin_answers_to_its_name_and_its_alias_and_others_are_suggested(write: Write) -> None:
    loaded = plugins.load([write("rpms.cfg", FILES_OF_2010["rpms.cfg"]).parent])
    assert loaded.find("rpm") is loaded.find("get_rpms") is loaded.plugins[0]
    assert loaded.find("get_rpm") is None
    assert loaded.suggestion("get_rpm") == "did you mean 'get_rpms'?"


def test_defaults(make: Make) -> None:
    plugin = make("command = x")
    assert (plugin.name, plugin.key, plugin.alias, plugin.description) == ("probe", "probe", None, "")
    assert (plugin.result_format, plugin.timeout_s, plugin.max_output_bytes) == ("output", 60.0, 4_000_000)
    assert (plugin.interval_s, plugin.splay_s, plugin.user, plugin.unordered) == (None, None, None, False)
    assert plugin.volatile == ()
    assert (plugin.requires, plugin.env, plugin.search_path) == ((), {}, PATH)
    assert plugin.source == f"{plugin.directory}/probe.cfg:1"
    assert hash(plugin) == hash(plugin)


def test_every_key(make: Make) -> None:
    plugin = make(
        "name = disks",
        "description = What there is",
        "  of disks",
        "command = 'a b' c",
        "Result_Format: json",
        "command_alias = get_disks",
        "result_key = storage",
        "timeout = 5m",
        "max_output = 10MB",
        "requires = lsblk, smartctl  dmidecode | biosdecode",
        "interval = 1h",
        "splay = 10m",
        "user = nobody",
        "env.PATH = /opt/bin",
        "ENV.mixedCase = %(name)s: 100%%",
        "unordered = yes",
        "volatile = uptime_s, disks.*.free",
        "    load",
    )
    assert (plugin.name, plugin.description, plugin.command) == ("disks", "What there is of disks", ("a b", "c"))
    assert (plugin.result_format, plugin.alias, plugin.key) == ("json", "get_disks", "storage")
    assert (plugin.timeout_s, plugin.max_output_bytes) == (300.0, 10_000_000)
    assert plugin.requires == ("lsblk", "smartctl", "dmidecode|biosdecode")
    assert (plugin.interval_s, plugin.splay_s, plugin.user) == (3600.0, 600.0, "nobody")
    assert plugin.env == {"PATH": "/opt/bin", "mixedCase": "disks: 100%"}
    assert plugin.search_path == "/opt/bin"
    assert plugin.unordered is True
    assert plugin.volatile == ("uptime_s", "disks.*.free", "load")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("rpm -qa --qf '%{NAME}\\n'", ("rpm", "-qa", "--qf", "%{NAME}\\n")),
        ("date +%s", ("date", "+%s")),
        ("date +%%s", ("date", "+%s")),
        ("echo %%(name)s", ("echo", "%(name)s")),
        ("echo %(name)s-%(RESULT_FORMAT)s", ("echo", "probe-raw")),
        ("%(python)s -V", (sys.executable, "-V")),
        ("echo a ; 2010 took this for a comment", ("echo", "a")),
        ("sh -c 'echo a ; echo b'", ("sh", "-c", "echo a ; echo b")),
        ('sh -c "echo \\"a ; b\\" ; true" ; said', ("sh", "-c", 'echo "a ; b" ; true')),
        ("find / -exec ls {} \\;", ("find", "/", "-exec", "ls", "{}", ";")),
        ("echo a#b", ("echo", "a#b")),
    ],
)
def test_command_lines(make: Make, written: str, words: tuple[str, ...]) -> None:
    assert make("name = probe", "result_format = raw", f"command = {written}").command == words


def test_here_is_the_directory_even_with_spaces_in_it(write: Write) -> None:
    path = write("my plugins/x.cfg", "[x]\ncommand = sh %(here)s/x.sh '%(here)s'\n")
    assert plugins.load([path.parent]).plugins[0].command == ("sh", f"{path.parent}/x.sh", str(path.parent))


def test_several_sections_shared_defaults_crlf_and_a_byte_order_mark(write: Write) -> None:
    text = "\ufeff[DEFAULT]\r\ntool = /opt/tool\r\ntimeout = 5s\r\n[a]\r\ncommand = %(tool)s a\r\n# c\r\n[b]\r\ncommand=b\r\n"
    loaded = plugins.load([write("x.cfg", text).parent])
    assert loaded.problems == ()
    assert [(p.name, p.command, p.timeout_s) for p in loaded.plugins] == [
        ("a", ("/opt/tool", "a"), 5.0),
        ("b", ("b",), 5.0),
    ]


@pytest.mark.parametrize(
    ("content", "line", "what", "remedy"),
    [
        ("[x]\nname = x\n", 1, "[x] has no command", "add: command ="),
        ("[x]\ncommand =\n", 2, "command is empty", "write: command ="),
        ("[x]\ncommand = ''\n", 2, "command is empty", "write: command ="),
        ("[x]\nname =\ncommand = x\n", 2, "name: empty", "default: the section"),
        ("[x]\n\n# c\ncomand = x\ncommand = y\n", 4, "unknown key 'comand'", "did you mean 'command'?"),
        ("[x]\ncommand = x\nresult_format = jsn\n", 3, "unknown result_format 'jsn'", "did you mean 'json'?"),
        ("[x]\ncommand = x\nresult_format = jsons\n", 3, "unknown result_format 'jsons'", "did you mean 'json'?"),
        ("[x]\ncommand = x\nresult_key = _id\n", 3, "'_id' is not a key", "another result_key"),
        ("[x]\ncommand = x\nresult_key = updated_at\n", 3, "'updated_at' is reserved", "another result_key"),
        ("[vogeler]\ncommand = x\n", 1, "'vogeler' is reserved", "add a result_key"),
        ("[x]\nname = system_name\ncommand = x\n", 2, "'system_name' is reserved", "add a result_key"),
        ("[x]\ncommand = x\ntimeout = soon\n", 3, "timeout: 'soon' is not a duration", "default: 60s"),
        ("[x]\ncommand = x\ntimeout = 0\n", 3, "timeout: '0' is not more than nothing", "default: 60s"),
        ("[x]\ncommand = x\ninterval = -5s\n", 3, "interval: '-5s' is not a duration", "correct the line"),
        ("[x]\ncommand = x\nmax_output = lots\n", 3, "max_output: 'lots' is not a size", "default: 4MB"),
        ("[x]\ncommand = x\nmax_output = 2GB\n", 3, "max_output: '2GB' is not between 1 and", "default: 4MB"),
        ("[x]\ncommand = x\nunordered = maybe\n", 3, "unordered: 'maybe' is neither", "default: false"),
        ("[x]\ncommand = x\nenv.A-B = 1\n", 3, "'A-B' can't name an environment variable", "letters, digits"),
        ("[x]\ncommand = sh -c 'echo\n", 2, "command: No closing quotation", "close the quotes"),
        ("[x]\ncommand = %(nme)s\n", 2, "refers to %(nme)s, which is not there", "%%(nme)s"),
        ("[x]\ncommand = %(name)s\nname = %(command)s\n", 3, "name refers to itself", "write the value out"),
        ("[x]\ncommand = x\n[y]\ncommand = y\n[x]\ncommand = z\n", 5, "a second section [x]", "rename or remove"),
        ("[x]\ncommand = x\ncommand = y\n", 3, "a second 'command' in [x]", "remove one"),
        ("# c\ncommand = x\n", 2, "'command = x' before the first [section]", "put [name]"),
        ("[x]\ncommand = x\nwhat is this\n", 3, "'what is this' is not 'key = value'", "begin the line with #"),
        ("", 1, "no [section]", "begin it with [name]"),
        ("# only words\n", 1, "no [section]", "begin it with [name]"),
        ("[DEFAULT]\ncommand = x\n", 1, "no [section]", "begin it with [name]"),
        ("[DEFAULT]\ntimout = 3s\n[x]\ncommand = x\n", 2, "unknown key 'timout'", "did you mean 'timeout'?"),
        (b"[x]\ncommand = x\ndescription = caf\xe9\n", 3, "not UTF-8: byte 0xe9", "save it as UTF-8"),
        (b"[x]\ncommand = x\0y\n", 2, "a NUL byte", "plain text"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_remedy(
    write: Write, content: str | bytes, line: int, what: str, remedy: str
) -> None:
    """And the other files load."""
    path = write("bad.cfg", content)
    write("good.cfg", "[good]\ncommand = true\n")
    loaded = plugins.load([path.parent])
    problem = only_problem(loaded)
    assert problem.message.startswith(f"{path}:{line}: ")
    assert what in problem.message
    assert remedy in (problem.remedy or "")
    assert loaded.find("good") is not None


def test_a_bad_section_does_not_stop_the_others_of_its_file(write: Write) -> None:
    path = write("x.cfg", "[a]\ncommand = a\n[b]\ntimeout = 5s\n[c]\ncommand = c\n")
    loaded = plugins.load([path.parent])
    assert [plugin.name for plugin in loaded.plugins] == ["a", "c"]
    assert only_problem(loaded).message == f"{path}:3: [b] has no command"


def test_the_second_that_answers_to_a_word_is_refused_and_the_first_named(write: Write) -> None:
    write("1.cfg", "[rpms]\ncommand = rpm -qa\ncommand_alias = get_rpms\n")
    path = write("2.cfg", "[more]\ncommand = x\ncommand_alias = get_rpms\n")
    loaded = plugins.load([path.parent])
    assert [plugin.name for plugin in loaded.plugins] == ["rpms"]
    problem = only_problem(loaded)
    assert problem.message.startswith(f"{path}:3: answers to 'get_rpms', as does 'rpms' ({path.parent}/1.cfg:1)")
    assert "another name or command_alias" in (problem.remedy or "")


def test_a_later_directory_replaces_plugins_by_name_and_a_broken_replacement_does_not(write: Write) -> None:
    first = write("a/x.cfg", "[x]\ncommand = old\n[y]\ncommand = old\n").parent
    second = write("b/other.cfg", "[x]\ncommand = new\n[y]\ncommand = new\ntimeout = never\n").parent
    loaded = plugins.load([first, second, first])
    assert [(plugin.name, plugin.command) for plugin in loaded.plugins] == [("x", ("new",)), ("y", ("old",))]
    assert "other.cfg:5: timeout" in only_problem(loaded).message


def test_a_replacement_may_not_take_the_alias_of_a_third(write: Write) -> None:
    first = write("a/x.cfg", "[x]\ncommand = x\n[y]\ncommand = y\ncommand_alias = get_y\n").parent
    second = write("b/x.cfg", "[x]\ncommand = new\ncommand_alias = get_y\n").parent
    loaded = plugins.load([first, second])
    assert only_problem(loaded).message.startswith(f"{second}/x.cfg:3: answers to 'get_y'")
    assert [plugin.command for plugin in loaded.plugins] == [("x",), ("y",)]


def test_what_is_not_a_readable_file(write: Write, tmp_path: Path) -> None:
    write("good.cfg", "[good]\ncommand = true\n")
    (tmp_path / "dir.cfg").mkdir()
    os.mkfifo(tmp_path / "fifo.cfg")
    (tmp_path / "gone.cfg").symlink_to("nowhere")
    (tmp_path / ".#hidden.cfg").symlink_to("an editor's lock")
    loaded = plugins.load([tmp_path])
    assert [str(problem).split(":1: ")[1] for problem in loaded.problems] == [
        "not a regular file",
        "not a regular file",
        "can't be read: No such file or directory",
    ]
    assert [plugin.name for plugin in loaded.plugins] == ["good"]


def test_a_file_that_may_not_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("secret.cfg", "[x]\ncommand = x\n", mode=0)
    if os.geteuid() == 0:  # root may read anything

        def refuse(self: Path) -> bytes:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "read_bytes", refuse)
    problem = only_problem(plugins.load([path.parent]))
    assert problem.message == f"{path}:1: can't be read: Permission denied"
    assert problem.remedy == "let the client's user read it"


def test_directories_that_are_not_there(write: Write, tmp_path: Path) -> None:
    good = write("good/good.cfg", "[good]\ncommand = true\n").parent
    file = write("file", "")
    loaded = plugins.load([tmp_path / "gone", file, good])
    assert [problem.message for problem in loaded.problems] == [
        f"{tmp_path}/gone: plugin directory can't be read: No such file or directory",
        f"{file}: plugin directory can't be read: Not a directory",
    ]
    assert "create it" in (loaded.problems[0].remedy or "")
    assert loaded.find("good") is not None


def test_unavailable_where_a_required_program_is_missing_until_it_is_there(make: Make, write: Write) -> None:
    directory = write("bin/one", "#!/bin/sh\n", mode=0o755).parent
    plugin = make("command = x", "requires = one two|deux", f"env.PATH = {directory}")
    assert plugins.unavailable_reason(plugin) == "needs two or deux, which is not on the PATH of this node"
    write("bin/deux", "#!/bin/sh\n", mode=0o755)
    assert plugins.unavailable_reason(plugin) is None


@pytest.mark.parametrize(
    ("lines", "number", "problem"),
    [
        (["max_output = " + "9" * 400 + "GB"], 3, "more than can be counted"),
        (["command_alias = " + "x" * 5000], 3, "5000 characters; at most 4096"),
        (["volatile = " + "x" * 5000], 3, "5000 characters; at most 4096"),
        (["description = " + "x" * 20_000], 3, "a line of 20014 characters; at most 10000"),
        (["description = x", " " + "x " * 6000 + "y"], 4, "a line of 12002 characters"),
        (["env.A = %(env.B)s", "env.B = %(env.A)s"], 3, "refers to itself"),
        ([f"env.A{n} = %(env.A{n + 1})s" for n in range(1500)] + ["env.A1500 = x"], 3, "refers through more than 10"),
        (
            ["env.A0 = " + "x" * 100] + [f"env.A{n + 1} = {f'%(env.A{n})s' * 20}" for n in range(9)],
            6,
            "is more than 100000",
        ),
        (["env.A0 ="] + [f"env.A{n + 1} = {f'%(env.A{n})s' * 500}" for n in range(9)] + ["x = 1"], 13, "unknown key"),
    ],
)
def test_what_would_take_too_long_or_could_not_be_sent(
    write: Write, lines: list[str], number: int, problem: str
) -> None:
    path = write("x.cfg", "\n".join(["[x]", "command = x", *lines]))
    found = only_problem(plugins.load([path.parent]))
    assert found.message.startswith(f"{path}:{number}: ")
    assert problem in found.message


def test_a_file_that_is_something_else(write: Write) -> None:
    path = write("disk.cfg", b"\xff" * 2_000_000)
    write("good.cfg", "[good]\ncommand = true\n")
    assert only_problem(plugins.load([path.parent])).message == f"{path}:1: 2000000 bytes; at most 1000000"


@pytest.mark.parametrize(
    ("written", "description"),
    [
        ("x ; y", "x"),
        ("'x ; y' ; z", "'x ; y'"),
        ('"x ; y" ; z', '"x ; y"'),
        ('"x \\" ; y" ; z', '"x \\" ; y"'),
        ("don't ; say", "don't"),
        ('12" ; inches', '12"'),
        ('"a\\"b ; c', '"a\\"b'),
        ("'a \" ; b' ; \"", "'a \" ; b'"),
        ("x;y", "x;y"),
    ],
)
def test_where_a_comment_begins(make: Make, written: str, description: str) -> None:
    assert make("command = x", f"description = {written}").description == description


def test_many_quotes_that_nothing_closes_do_not_take_long(make: Make) -> None:
    text = '"' + '\\"' * 4900
    assert make("command = x", f"description = {text}").description == text


def test_a_directory_whose_name_is_not_utf8(tmp_path: Path) -> None:
    directory = tmp_path / "\udcff"
    directory.mkdir()
    problem = only_problem(plugins.load([directory]))
    assert problem.message == f"{tmp_path}/\\udcff: the name of the plugin directory is not UTF-8"


def test_keys_are_described() -> None:
    assert all(meaning for _, meaning in KEYS.values())
