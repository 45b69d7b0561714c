"""Split the URL of a broker or a store, and never show its password again.

``amqp://alice:s3cret@mq1:5672/vogeler`` → scheme, user, password, host, port, path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from vogeler.errors import UsageError

_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_NO_HOST = re.compile(r"[\s\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Url:
    """A parsed URL. ``str(url)`` is fit for logs: the password is left out.

    ``path`` is percent-decoded and keeps its leading slash; ``port`` is None when not given.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    path: str = ""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    options: tuple[tuple[str, str], ...] = ()

    @property
    def secure(self) -> bool:
        """Whether the scheme asks for TLS: ``amqps``, ``couchs``."""
        return self.scheme.endswith("s") and self.scheme != "s"

    def option(self, name: str, default: str) -> str:
        """The value of ``?name=value``, or the default."""
        return dict(self.options).get(name, default)

    def with_password(self, password: str | None) -> Url:
        """This URL with ``password`` filled in, where it names a user and has none of its own."""
        if password is None or self.user is None or self.password is not None:
            return self
        return replace(self, password=password)

    def __str__(self) -> str:
        login = f"{quote(self.user, safe='')}{':…' if self.password else ''}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = f":{self.port}" if self.port is not None else ""
        return f"{self.scheme}://{login}{host}{port}{self.path}"


def parse(text: str) -> Url:
    """One URL. Raises UsageError that says what is wrong, without the password."""
    if not _SCHEME.match(text):
        raise UsageError(f"{_hidden(text)!r} is not a URL", "write scheme://host/..., for example amqp://localhost")
    try:
        text.encode()
        parts = urlsplit(text.strip())
        port = parts.port
        _check(parts)
    except ValueError:  # whose text may quote the password
        raise UsageError(
            f"the URL {_hidden(text)!r} can't be read",
            "write scheme://user:password@host:port/..., and what has a meaning in a URL as its code: "
            "@ %40, : %3A, / %2F, # %23, ? %3F, [ %5B, ] %5D, % %25, a comma %2C",
        ) from None
    return Url(
        scheme=parts.scheme.lower(),
        host=parts.hostname or "",
        port=port,
        path=unquote(parts.path),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        options=tuple(parse_qsl(parts.query)),
    )


def parse_many(text: str, password: str | None = None) -> tuple[Url, ...]:
    """A comma list of URLs of one cluster; ``password`` is filled in where one is missing.

    Raises UsageError for a list that is empty or mixes schemes.
    """
    urls = tuple(parse(part).with_password(password) for part in text.split(",") if part.strip())
    if not urls:
        raise UsageError("an empty URL", "write scheme://host/..., for example amqp://localhost")
    if len({url.scheme for url in urls}) > 1:
        raise UsageError(
            "the URLs of one cluster must share a scheme: " + ", ".join(map(str, urls)),
            "several URLs are several members of one cluster",
        )
    return urls


def has_password(text: str) -> bool:
    """Whether any URL in a comma list carries a password."""
    return any(parse(part).password for part in text.split(",") if "://" in part)


def _check(parts: SplitResult) -> None:
    """What urlsplit lets pass although it can't be meant. Raises ValueError."""
    host = parts.hostname or ""
    if host:
        host.encode("idna")  # a UnicodeError is a ValueError
    beyond = parts.path if "@" in parts.netloc else parts.path + parts.query
    in_password = bool(parts.netloc) and "@" in beyond  # a slash or question mark, which ended the host too early
    if _NO_HOST.search(host) or in_password or parts.fragment or "\0" in unquote(parts.path + parts.query):
        raise ValueError


def _hidden(text: str) -> str:
    """A URL that can't be read, without anything that may be a part of its password."""
    scheme, there, rest = text.partition("://")
    if not there:
        scheme, rest = "", text
    if "@" in rest:
        rest = "…@" + rest.rpartition("@")[2]
    elif there:
        rest = re.sub(r":.*", ":…", rest, flags=re.DOTALL)
    return scheme + there + rest
