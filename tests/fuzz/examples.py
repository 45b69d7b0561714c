"""Examples made to break things, and what may become of them: a value, or one of our errors, in time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable, Optional, TypeVar

from hypothesis import settings
from hypothesis import strategies as st

from vogeler.errors import VogelerError

T = TypeVar("T", str, bytes)
Made = TypeVar("Made")

PROFILE = "fuzz"
LIMIT_S = 10.0  # for what takes milliseconds: reached only by what hangs
MOST_CHARACTERS = 2000  # of an error: it is shown, logged, and sent in a header


class HungError(AssertionError):
    """Something did not end within the limit."""


def fuzzed(test: Callable[..., None]) -> Any:
    """As many examples as the profile says."""
    return settings.get_profile(PROFILE)(test)


@contextmanager
def limited() -> Iterator[None]:
    """End what hangs, also in the middle of a regular expression."""

    def hung(number: int, frame: object) -> None:
        raise HungError(f"not within {LIMIT_S:g} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tried(make: Callable[[], Made], error: type[VogelerError]) -> Optional[Made]:
    """What is made; None where that is refused with exactly this kind of error, in words fit for a log."""
    with limited():
        try:
            return make()
        except error as refused:
            check_error(refused)
            return None


def check_error(refused: VogelerError) -> None:
    """It says something, in a bounded number of characters, that every terminal and header can take."""
    assert refused.message.strip()
    assert len(refused.message) <= MOST_CHARACTERS
    f"{refused.message} {refused.remedy}".encode()


# --- values ---------------------------------------------------------------------------------------

HALVES = st.sampled_from(["\ud800", "\udfff", "a\udcff"])  # half a surrogate pair
NASTY_TEXTS = st.one_of(
    st.text(max_size=20),
    HALVES,
    st.sampled_from(["", " ", "\x00", "\n", "\x1b[31m", "\u2028", "\ufeff", "\ufffd", "%s", "%(x)s", "../..", "²", "٣"]),
    st.builds(lambda text, times: text * times, st.sampled_from(["x", "é", "9", "[", "{", "*", "\\"]), st.integers(1, 6000)),
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    NASTY_TEXTS,
    st.sampled_from([2**53, -(2**53), 2**63, 2**64, 10**400, 1e308, -1e308, 5e-324, -0.0, -1, 0]),
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NASTY_TEXTS, inner, max_size=4),
    max_leaves=12,
)


def towers(most: int = 5000) -> st.SearchStrategy[str]:
    """JSON nested so deep that whoever reads it by calling himself falls down."""
    return st.builds(
        lambda opening, depth, closing: opening * depth + closing * depth,
        st.sampled_from(["[", '{"a":', '[{"":']),
        st.integers(1, most),
        st.sampled_from(["", "]", "}", "}]"]),
    )


# --- mutations ------------------------------------------------------------------------------------


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[T], pieces: st.SearchStrategy[T], most: int = 4) -> T:
    """A valid example with up to ``most`` parts cut out, put in, written over or doubled."""
    text = draw(valid)
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        piece = draw(pieces)
        cut, put_in, over = (
            text[:start] + text[end:],
            text[:start] + piece + text[start:],
            text[:start] + piece + text[end:],
        )
        doubled, short = text[:end] + text[start:], text[:start]
        text = draw(st.sampled_from([cut, put_in, over, doubled, short]))
    return text
