"""Plugin files: whatever is in the folder, the client loads what is good in it, and says what is wrong with the rest."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.examples import NASTY_TEXTS, check_error, fuzzed, limited, mutated
from vogeler import client
from vogeler.messages import Heartbeat, Result, decode, encode
from vogeler.plugins import KEYS, Loaded, Plugin, load, unavailable_reason

NOW = "2026-01-31T08:00:00.000Z"
SHIPPED = [path.read_text() for path in sorted((Path(__file__).parents[2] / "plugins").glob("*.cfg"))]

NAMES = st.sampled_from([*KEYS, "env.PATH", "ENV.x", "Command", "comand", "DEFAULT", "a", "b"])
VALUES = st.one_of(
    NASTY_TEXTS,
    st.sampled_from(
        ["json", "true", "5m", "9" * 400 + "GB", "1e9h", "0", "-1", "echo 'a", "sh -c 'x; y' ; note", "%(a)s%(a)s",
         "%(here)s/x", "%(python)s", "%%(a)s", "%(b)s", "%(command)s", "%", "[z-a]", "*a*a*a*a*b", "a|b, |", "_x", "vogeler"]
    ),
)  # fmt: skip
LINES = st.one_of(
    st.builds("{} {} {}".format, NAMES, st.sampled_from(["=", ":", ""]), VALUES),
    st.builds("[{}]".format, NASTY_TEXTS | NAMES),
    st.builds("{}{}".format, st.sampled_from([" ", "\t", "#", ";", "\ufeff", "\r", "\x0b", "\x1c", "\u3000"]), VALUES),
    NASTY_TEXTS,
)
PIECES = st.sampled_from(["\n", "\r\n", "[", "]", "=", ":", " ;", "#", "'", '"', "\\", "%", "%(a)s", "\x00", "\t", "é"])
GOOD = st.sampled_from([*SHIPPED, "[probe]\ncommand = echo 1\n"])
FILES = st.one_of(
    st.lists(LINES, max_size=8).map("\n".join),
    st.builds("[x]\ncommand = y\n{}\n".format, st.lists(LINES, max_size=6).map("\n".join)),
    mutated(GOOD, PIECES),
    st.text(),
)


def read(*contents: bytes) -> Loaded:
    """What a folder with these files gives; whatever it is, it is fit for use."""
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(contents):
            Path(folder, f"{number}.cfg").write_bytes(content)
        with limited():
            loaded = load([folder])
        for problem in loaded.problems:
            check_error(problem)
            assert problem.message.startswith(folder)
            assert problem.remedy
        for plugin in loaded.plugins:
            check_plugin(plugin)
        words = [word for plugin in loaded.plugins for word in plugin.answers_to]
        assert len(words) == len(set(words))
        return loaded


def check_plugin(plugin: Plugin) -> None:
    """Nothing in the file keeps the node from offering it, or the server from taking its results."""
    with limited():
        unavailable_reason(plugin)
        result = Result(
            "n", plugin.name, plugin.key, 1, "ok", NOW, value={"a": 1}, volatile=list(plugin.volatile) or None
        )
        assert decode(encode(result), Result) == result
        beat = Heartbeat("n", {"plugins": [client._offer(plugin)]})
        assert decode(encode(beat), Heartbeat) == beat
        assert plugin.command
        assert plugin.timeout_s > 0
        assert plugin.max_output_bytes > 0


@fuzzed
@given(st.lists(FILES.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=100), max_size=3))
@example([b"[x]\ncommand = y\nmax_output = " + b"9" * 400 + b"GB"])
def test_any_folder_is_loaded_as_far_as_it_is_good(contents: list[bytes]) -> None:
    good = b"[the good one]\ncommand = echo\nname = zz-good\ncommand_alias = zz-alias\n"
    assert read(good, *contents).find("zz-alias") is not None
