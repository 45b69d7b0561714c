"""Split the URL of a broker or a store, and never show its password again.

``amqp://alice:s3cret@mq1:5672/vogeler`` → scheme, user, password, host, port, path.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from vogeler.errors import UsageError


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
    if "://" not in text:
        raise UsageError(f"{_hidden(text)!r} is not a URL", "write scheme://host/..., for example amqp://localhost")
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise UsageError(f"the URL {_hidden(text)!r} can't be read: {error}", "write scheme://host:port/...") from None
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


def _hidden(text: str) -> str:
    scheme, _, rest = text.rpartition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2]}" if "@" in rest else text
