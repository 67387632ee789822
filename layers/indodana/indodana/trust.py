"""The certificate authorities by which TLS connections are verified: certifi's."""

import ssl
from pathlib import Path

import certifi


class NoAuthoritiesError(Exception):
    """The certificate authorities cannot be read; the text says where they should be."""


def verifying_context() -> ssl.SSLContext:
    """Verifies certificates and host names. Raises NoAuthoritiesError.

    In the built layer, certifi names a folder (rehash.py): OpenSSL reads an authority when a server's chain leads to
    it. Elsewhere it names a file, and all are read here.
    """
    authorities = Path(certifi.where())
    try:
        if not authorities.is_dir():
            return ssl.create_default_context(cafile=authorities)
        # OpenSSL takes a folder without certificates, or with unreadable ones, in silence, and then trusts nobody.
        with next(authorities.iterdir(), authorities / "0").open("rb"):
            return ssl.create_default_context(capath=authorities)
    except OSError as error:
        raise NoAuthoritiesError(f"no certificate authorities can be read from {authorities}: {error}") from error
