"""The shared TLS context, by AWS clients that use it over TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import certifi
import pytest
from botocore.exceptions import SSLError

from gateway.runtime import tls
from gateway.runtime.aws import AwsClients
from testkit.certificates import self_signed


class Answer(BaseHTTPRequestHandler):
    """An AWS service that says {} and hangs up."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def aws_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path]]:
    """A port that speaks TLS, and the certificate to trust. 127.0.0.1 is in it, and localhost is not."""
    certificate = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        tls.context.cache_clear()
        yield server.server_port, certificate
        tls.context.cache_clear()
        server.shutdown()


def read_secret(port: int, host: str = "127.0.0.1") -> None:
    with patch.dict("os.environ", {"AWS_ENDPOINT_URL": f"https://{host}:{port}"}):
        AwsClients().secretsmanager.get_secret_value(SecretId="s")


def test_a_certificate_that_nobody_vouches_for_is_refused(aws_over_tls: tuple[int, Path]) -> None:
    with pytest.raises(SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        read_secret(aws_over_tls[0])


def test_the_bundle_is_read_once_for_all_connections(
    aws_over_tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, certificate = aws_over_tls
    load, reads = ssl.SSLContext.load_verify_locations, []

    def counted(context: ssl.SSLContext, *arguments: Any, **options: Any) -> None:
        reads.append(1)
        load(context, *arguments, **options)

    monkeypatch.setattr(certifi, "where", lambda: str(certificate))
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", counted)
    read_secret(port)
    read_secret(port)

    assert reads == [1]
    with pytest.raises(SSLError, match="localhost"):
        read_secret(port, host="localhost")
