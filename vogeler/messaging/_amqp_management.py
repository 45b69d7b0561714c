"""Users and permissions of RabbitMQ, by the HTTP API of its management plugin; AMQP itself knows of none.

``http://admin:password@mq1:15672``; ``https`` for TLS, with the options of tls.py.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from vogeler import tls
from vogeler.errors import TransportError, TransportUnavailable, UsageError
from vogeler.messaging._amqp_url import login
from vogeler.roles import Role
from vogeler.urls import Url

_PORTS = {"amqp": ("http", 15672), "amqps": ("https", 15671)}
_REMEDY = (
    "rabbitmq-plugins enable rabbitmq_management on the broker's host, name the API with --qapi, or have the commands "
    "printed for rabbitmqctl: vogeler-admin setup --roles --print"
)
_REMEDIES = {
    401: "log in as a user with the tag administrator, in qhost or qapi; or have the commands printed: --print",
    404: "check the virtual host in qhost and what qapi names, or have the commands printed: --print",
}


def url_beside(broker: Url) -> Url:
    """Where the API of a broker is by default: on its host, with its login."""
    if broker.scheme not in _PORTS:
        raise UsageError(f"{broker} has no users and permissions", "roles are for RabbitMQ: amqp://")
    scheme, port = _PORTS[broker.scheme]
    options = tuple(option for option in broker.options if option[0] == "cafile")
    return Url(scheme, broker.host or "localhost", port, "", broker.user, broker.password, options)


class Management:
    """The API at one URL. Every call may raise TransportError, or TransportUnavailable."""

    def __init__(self, url: Url, timeout_s: float) -> None:
        if url.scheme not in ("http", "https"):
            raise UsageError(f"the URL {url} names no HTTP API", "write http://HOST:15672 or https://HOST:15671")
        host = f"[{url.host}]" if ":" in url.host else url.host
        self._url = url
        self._base = f"{url.scheme}://{host}{f':{url.port}' if url.port else ''}{url.path.rstrip('/')}/api"
        self._timeout_s = timeout_s
        self._login = "Basic " + base64.b64encode(":".join(login(url)).encode()).decode()
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if url.secure:
            handlers.append(urllib.request.HTTPSHandler(context=tls.context(url)))
        self._opener = urllib.request.build_opener(*handlers)

    def check(self) -> None:
        """Raises what keeps this from being the API, or from taking our login."""
        answer = self._call("GET", "/whoami")
        if not isinstance(answer, dict) or "name" not in answer:
            raise TransportError(f"what answers at {self._url} is not RabbitMQ's management API", _REMEDY)

    def has_user(self, user: str) -> bool:
        """Whether there is a user of that name."""
        return self._call("GET", f"/users/{_part(user)}", missing=True) is not None

    def make_user(self, user: str, password: str) -> None:
        """Make a user that may do nothing yet."""
        self._call("PUT", f"/users/{_part(user)}", {"password": password, "tags": ""})

    def grant(self, vhost: str, role: Role) -> None:
        """Give a user the permissions of its role, and no other. The keys first: without any, all are allowed."""
        for topic in role.topics:
            keys = {"exchange": topic.exchange, "write": topic.write, "read": topic.read}
            self._call("PUT", f"/topic-permissions/{_part(vhost)}/{_part(role.user)}", keys)
        names = {"configure": role.configure, "write": role.write, "read": role.read}
        self._call("PUT", f"/permissions/{_part(vhost)}/{_part(role.user)}", names)

    def delete_user(self, user: str) -> bool:
        """False when there was none. RabbitMQ closes its connections."""
        return self._call("DELETE", f"/users/{_part(user)}", missing=True) is not None

    def _call(self, method: str, path: str, content: Mapping[str, str] | None = None, missing: bool = False) -> Any:
        """The answer; None where there is no such thing and that may be so (``missing``)."""
        data = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": self._login, "Content-Type": "application/json"}
        request = urllib.request.Request(self._base + path, data, headers, method=method)  # noqa: S310 - http, https
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404 and missing:
                    return None
                raise self._refusal(error) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            said, remedy = f"can't be reached at {self._url}: {reason}", _REMEDY
            refused = tls.refusal(reason) if isinstance(reason, BaseException) else None
            if refused is not None:
                said, remedy = f"at {self._url} {refused[0]}", refused[1]
            raise TransportUnavailable(f"the management API of the broker {said}", remedy) from None
        except ValueError:
            raise TransportError(f"what answers at {self._url} is not RabbitMQ's management API", _REMEDY) from None

    def _refusal(self, error: urllib.error.HTTPError) -> TransportError:
        return TransportError(
            f"the management API of the broker at {self._url} answers {error.code} {error.reason}",
            _REMEDIES.get(error.code, _REMEDY),
        )


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A login is for the host that it was given for."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirection is the answer, and an error."""


def _part(name: str) -> str:
    return quote(name, safe="")
