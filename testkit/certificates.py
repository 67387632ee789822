"""Certificates for servers of the tests, and authorities that issue them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

_SERVER = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
_HOST = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])


class Authority:
    """Has a new key and a certificate of its own, and issues those of servers."""

    def __init__(self, name: x509.Name) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.name = name
        builder = _builder(name, name, self._key.public_key(), timedelta(days=1))
        self.certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_uses("digital_signature", "key_cert_sign"), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, folder: Path, *, lasts: timedelta = timedelta(days=1)) -> Path:
        """A file with a new key and its certificate for 127.0.0.1, which is over where `lasts` is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = (
            _builder(_SERVER, self.name, key.public_key(), lasts)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(_HOST, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = folder / f"{uuid.uuid4().hex}.pem"
        _write(path, key, issued)
        return path


def forged(folder: Path, issuer: x509.Certificate) -> Path:
    """A file with a certificate for 127.0.0.1 that says it is by this issuer, which never signed it; and its key."""
    # OpenSSL takes for the issuer only what has a key of the kind that signed.
    key = _rsa_key() if isinstance(issuer.public_key(), rsa.RSAPublicKey) else ec.generate_private_key(ec.SECP256R1())
    path = folder / f"{uuid.uuid4().hex}.pem"
    builder = _builder(_SERVER, issuer.subject, key.public_key(), timedelta(days=1))
    _write(path, key, builder.add_extension(_HOST, critical=False).sign(key, hashes.SHA256()))
    return path


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)  # which takes 50 ms


def self_signed(folder: Path) -> Path:
    """A file with a new key and its certificate for 127.0.0.1, which also vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "upstream")])
    made = (
        _builder(name, name, key.public_key(), timedelta(days=1))
        .add_extension(_HOST, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_uses("digital_signature", "key_cert_sign"), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "upstream.pem"
    _write(path, key, made)
    return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, lasts: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer, subject, key, x509.random_serial_number(), now - timedelta(days=2), now + lasts
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _uses(*names: str) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: name in names for name in every})


def _write(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, certificate: x509.Certificate) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
