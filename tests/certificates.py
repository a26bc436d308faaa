"""Throw-away certificates for tests: an authority, and who it vouches for."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key as PEM files, and its SHA-256 fingerprint in hex."""

    certificate: Path
    key: Path
    fingerprint: str


class Authority:
    """A certificate authority that lives in a folder."""

    def __init__(self, folder: Path, name: str = "Test Authority") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pem = folder / f"{name.replace(' ', '-')}.pem"
        self.pem.write_bytes(self._signed(self._name, self._key, None).public_bytes(serialization.Encoding.PEM))

    def vouches_for(self, name: str, *, ip: str = "127.0.0.1") -> Certificate:
        """A certificate for `name` at that address."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._signed(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, ip)
        pem, key_pem = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key_pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Certificate(pem, key_pem, hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest())

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, ip: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ip is None, path_length=None), critical=True)
        )
        if ip is not None:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(ip))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())
