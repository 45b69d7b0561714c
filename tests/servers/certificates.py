"""Certificates made on the spot, and TLS put in front of a server that has none."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Optional

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.servers.forwarding import before

_DAY = datetime.timedelta(days=1)


class Pair(NamedTuple):
    """The files of a certificate and its key."""

    certfile: Path
    keyfile: Path


class Authority:
    """Signs certificates with P-256 keys. Its own is ``cafile``."""

    def __init__(self, folder: Path, name: str = "Test Authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.cafile = folder / "ca.pem"
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        own = self._builder(self._name, self._key, -1, 10).add_extension(x509.BasicConstraints(True, 0), critical=True)
        made = own.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.cafile.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(
        self, name: str, *hosts: str, begins: float = -1, ends: float = 2, password: Optional[bytes] = None
    ) -> Pair:
        """A certificate for these host names and addresses, valid from and until so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.IPAddress(ipaddress.ip_address(h)) if h[:1].isdigit() else x509.DNSName(h) for h in hosts]
        builder = self._builder(subject, key, begins, ends)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(self._key, hashes.SHA256())
        pair = Pair(*(self._folder / f"{name}-{made.serial_number:x}.{kind}.pem" for kind in ("cert", "key")))
        pair.certfile.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pair.keyfile.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        )
        return pair

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: float, ends: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        subject_identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(subject_identifier, critical=False)
        return builder.not_valid_before(now + begins * _DAY).not_valid_after(now + ends * _DAY)


@contextmanager
def tls_before(upstream: tuple[str, int], pair: Pair, clients: Optional[Authority] = None) -> Iterator[int]:
    """The port of a server that speaks TLS and passes all on to ``upstream``; ``clients``: who signed theirs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.cafile)
    with before(upstream, lambda raw: context.wrap_socket(raw, server_side=True)) as port:
        yield port
