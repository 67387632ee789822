"""Turns certifi's file into a folder in which OpenSSL finds an authority by its name; `sam build` runs it (Makefile).

    python3.13 rehash.py <the layer's certifi/ folder>

OpenSSL decodes a file as a whole, 120 certificates, which takes a sixth of a cold start. Of a folder it reads, during a
handshake, the one or two that the server's chain leads to. `openssl rehash` makes such folders. It is done here because
not every machine that builds has that command (macOS has LibreSSL's), and because little of it is needed: no symbolic
links, which a layer's zip would not keep, and no revocation lists.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

FILE, FOLDER = "cacert.pem", "authorities"

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SPACES = re.compile(r"[ \t\n\v\f\r]+")

# DER's tags.
_UTF8_STRING, _SEQUENCE, _SET, _VERSION = 0x0C, 0x30, 0x31, 0xA0
# The strings that OpenSSL compares without regard to case and spaces, with their encodings (ASN1_MASK_CANON).
_TEXTS = {
    _UTF8_STRING: "utf-8",
    0x13: "latin-1",  # PrintableString
    0x14: "latin-1",  # T61String
    0x16: "latin-1",  # IA5String
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}


def rehash(certifi: Path) -> None:
    """Writes each certificate to <hash of its subject>.<number>, and removes the file."""
    folder = certifi / FOLDER
    folder.mkdir()
    for certificate in _CERTIFICATE.findall((certifi / FILE).read_text(encoding="ascii")):
        name = subject_hash(ssl.PEM_cert_to_DER_cert(certificate))
        number = len(list(folder.glob(f"{name}.*")))
        (folder / f"{name}.{number}").write_text(f"{certificate}\n", encoding="ascii")
    (certifi / FILE).unlink()


def subject_hash(certificate: bytes) -> str:
    """What `openssl x509 -subject_hash` prints: X509_NAME_hash of OpenSSL 1.0 and later."""
    ((_, certified),) = _values(certificate)
    (_, to_be_signed), *_ = _values(certified)
    _, _, _, _, subject, *_ = (content for tag, content in _values(to_be_signed) if tag != _VERSION)
    digest = hashlib.sha1(b"".join(map(_canonical, _values(subject))), usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


def _canonical(relative_name: tuple[int, bytes]) -> bytes:
    """As OpenSSL's x509_name_canon encodes a SET of attributes, each a SEQUENCE of its type and its value."""
    _, attributes = relative_name
    return _encoded(
        _SET,
        # DER sorts the elements of a SET OF.
        *sorted(
            _encoded(_SEQUENCE, _encoded(*kind), _encoded(*_canonical_value(*value)))
            for kind, value in (tuple(_values(attribute)) for _, attribute in _values(attributes))
        ),
    )


def _canonical_value(tag: int, content: bytes) -> tuple[int, bytes]:
    if tag not in _TEXTS:
        return tag, content
    text = _SPACES.sub(" ", content.decode(_TEXTS[tag])).strip(" ").encode()
    return _UTF8_STRING, text.lower()  # ASCII's letters alone, as OpenSSL does


def _values(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents that follow each other in this encoding."""
    while der:
        tag, length, start = der[0], der[1], 2
        if length >= 0x80:  # the long form: so many bytes have the length
            start += length & 0x7F
            length = int.from_bytes(der[2:start])
        yield tag, der[start : start + length]
        der = der[start + length :]


def _encoded(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size) + content


if __name__ == "__main__":
    rehash(Path(sys.argv[1]))
