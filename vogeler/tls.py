"""TLS as a URL asks for it, and what its failures mean. The certificate and the host name are checked, always.

``?cafile=`` is whom to trust, in place of the system's authorities; ``?certfile=`` and ``?keyfile=`` are what is shown
to a server that asks who we are. All in PEM.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vogeler.errors import UsageError
from vogeler.urls import Url

OPTIONS = ("cafile", "certfile", "keyfile")

# OpenSSL, verify(1), "Diagnostics".
_NOT_YET_VALID, _EXPIRED, _HOST_MISMATCH, _ADDRESS_MISMATCH = 9, 10, 62, 64
_REMEDIES = {
    _NOT_YET_VALID: "look at the clocks of both machines, and at when the certificate begins",
    _EXPIRED: "renew the certificate of the server; if it is not that old, look at this machine's clock",
    _HOST_MISMATCH: "name the server in the URL as its certificate does, or have that name put into it",
    _ADDRESS_MISMATCH: "name the server in the URL as its certificate does, not by its address",
}
_UNKNOWN_AUTHORITY = "name the file with the authority's certificates: ?cafile=/path/ca.pem"
_OURS_MISSING = "name a certificate that its authority has signed: ?certfile=/path/cert.pem&keyfile=/path/key.pem"
ENDED = "does it demand a client certificate (?certfile=), or not trust ours?"
_ALERT = re.compile(r"\[SSL: \w*ALERT_\w+")  # how OpenSSL names what the other side has said
# What a server says of the certificate that it was shown: RFC 8446, 6.2.
_OF_OURS = {
    "CERTIFICATE_REQUIRED": ("demands a client certificate, and was shown none", _OURS_MISSING),
    "EXPIRED": ("refuses our certificate: it has expired", "renew the certificate that certfile names"),
    "REVOKED": ("refuses our certificate: it was revoked", "have another one made for certfile"),
    "UNKNOWN_CA": ("refuses our certificate: it does not know who signed it", _OURS_MISSING),
    "BAD_CERTIFICATE": ("refuses our certificate", _OURS_MISSING),
    "CERTIFICATE_UNKNOWN": ("refuses our certificate", _OURS_MISSING),
    "UNSUPPORTED_CERTIFICATE": ("refuses our certificate: it is not for clients", _OURS_MISSING),
    "HANDSHAKE_FAILURE": ("ends the handshake: it demands a client certificate, or other ciphers", _OURS_MISSING),
}


def context(url: Url) -> ssl.SSLContext:
    """What a connection to ``url`` is opened with. Raises UsageError for files that can't be used."""
    cafile, certfile, keyfile = (url.option(name, "") or None for name in OPTIONS)
    with _usable(url, "cafile", cafile):
        made = ssl.create_default_context(cafile=cafile)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if certfile is not None:
        with _usable(url, "certfile", certfile), Path(certfile).open():  # OpenSSL does not say which one it misses
            pass
        with _usable(url, "keyfile", keyfile or certfile):
            # Without a password OpenSSL asks for it on the terminal, which a daemon has not.
            made.load_cert_chain(certfile, keyfile, password=lambda: "")
    return made


def check(url: Url) -> None:
    """Raises UsageError for files that would not be looked at, because the URL does not ask for TLS."""
    for option in OPTIONS:
        if not url.secure and url.option(option, ""):
            raise UsageError(
                f"{option} in the URL {url}, which is without TLS",
                f"write {url.scheme}s:// in place of {url.scheme}://",
            )
    if url.option("keyfile", "") and not url.option("certfile", ""):
        raise UsageError(f"a keyfile without a certfile in the URL {url}", "name the certificate, too: ?certfile=PATH")


def refusal(error: BaseException) -> tuple[str, str] | None:
    """What is wrong, behind "... the broker at amqps://mq1/", and the remedy; None for what is not about trust.

    A server that speaks TLS 1.3 refuses a client's certificate when the client believes to be connected already. Who
    has wrapped the error of the library by then has kept its text.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        said = f"shows a certificate that is not trusted: {error.verify_message or error.reason}"
        return said, _REMEDIES.get(error.verify_code, _UNKNOWN_AUTHORITY)
    alert = _ALERT.search(str(error))
    return next((said for word, said in _OF_OURS.items() if alert and word in alert.group()), None)


def ended(error: BaseException) -> str | None:
    """What to ask oneself where the other side has ended TLS without a word; None for what is something else."""
    if "EOF occurred in violation of protocol" not in str(error):
        return None
    return ENDED


@contextmanager
def _usable(url: Url, option: str, path: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_tls = isinstance(error, ssl.SSLError)
        why = "not PEM, locked with a password, or not of that certificate" if is_tls else error.strerror or str(error)
        raise UsageError(
            f"the {option} in the URL {url} can't be used: {path}: {why}",
            "name a readable file in PEM format; a key must not be locked with a password",
        ) from error
