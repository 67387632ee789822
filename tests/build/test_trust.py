"""Whom the built layer trusts: certifi's authorities, found in a folder by their names.

OpenSSL itself, as Python has it, says which names it finds; the program `openssl` is not needed.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from checks.pins import ROOT
from devstack.template import Template
from indodana.trust import NoAuthoritiesError, verifying_context
from testkit.certificates import Authority, forged

BUILD = ROOT / ".aws-sam" / "build"
LAYER = BUILD / "IndodanaLayer" / "python"
AUTHORITIES = LAYER / "certifi" / "authorities"
REHASH = runpy.run_path(str(ROOT / "layers" / "indodana" / "rehash.py"))
NO_ISSUER, BAD_SIGNATURE = 20, 7  # OpenSSL's X509_V_ERR_…

pytestmark = pytest.mark.skipif(not LAYER.exists(), reason="nothing is built; make build")


def named(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])


def rehashed(folder: Path, *authorities: Authority) -> Path:
    """The built certifi package, whose folder was made of certifi's file with these authorities added to it."""
    package = folder / "certifi"
    package.mkdir(parents=True)
    shutil.copy(LAYER / "certifi" / "__init__.py", package)
    pem = Path(certifi.where()).read_text(encoding="ascii") + "".join(authority.pem for authority in authorities)
    (package / "cacert.pem").write_text(pem)
    REHASH["rehash"](package)
    return package


# ---- the folder


def test_the_folder_has_every_authority_of_certifi_once() -> None:
    pem = Path(certifi.where()).read_text(encoding="ascii")
    whole = re.findall("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----", pem)
    assert len(whole) == len(set(whole)) > 100
    assert sorted(path.read_text().strip() for path in AUTHORITIES.iterdir()) == sorted(whole)


def test_the_folder_is_all_plain_files_that_anybody_may_read() -> None:
    assert not (LAYER / "certifi" / "cacert.pem").exists()
    assert [path for path in BUILD.rglob("*") if path.is_symlink()] == []
    for path in (AUTHORITIES, *AUTHORITIES.iterdir()):
        assert path.stat().st_mode & stat.S_IROTH, path
    assert AUTHORITIES.stat().st_mode & stat.S_IXOTH


# ---- whom OpenSSL finds in it


def verify_error(client: ssl.SSLContext, certificate: Path) -> int:
    """OpenSSL's, of a handshake in memory with a server that has this certificate; 0 if it is accepted."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    try:
        for _ in range(2):
            for side in (asking, answering):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return error.verify_code
    assert asking.cipher(), "no handshake took place"
    return 0


def lenient(context: ssl.SSLContext) -> ssl.SSLContext:
    """Says of a forged certificate that its signature is wrong, not that it lacks an extension."""
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


# Some authorities have a serial number of zero.
@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_openssl_finds_every_authority_by_its_name(tmp_path: Path) -> None:
    context = lenient(ssl.create_default_context(capath=AUTHORITIES))
    roots = x509.load_pem_x509_certificates(Path(certifi.where()).read_bytes())
    stranger = Authority(named((NameOID.COMMON_NAME, "Stranger")))

    errors = {verify_error(context, forged(tmp_path, root)) for root in roots}

    assert errors == {BAD_SIGNATURE}
    assert verify_error(context, forged(tmp_path, stranger.certificate)) == NO_ISSUER


def typed(kind: _ASN1Type, value: str | bytes, of: x509.ObjectIdentifier = NameOID.ORGANIZATION_NAME) -> x509.Name:
    return x509.Name([x509.NameAttribute(of, value, _type=kind)])


NAMES = {
    "several attributes": named((NameOID.COUNTRY_NAME, "ID"), (NameOID.COMMON_NAME, "Root")),
    "capitals and spaces": named((NameOID.COMMON_NAME, "  A  Root\t of  ALL ")),
    "not ASCII": named((NameOID.COMMON_NAME, "Ünder ÄLL \u00a0 ҐЄ")),
    "longer than 127 bytes": named((NameOID.ORGANIZATION_NAME, "Long " * 60)),
    "longer than 255 bytes": named((NameOID.ORGANIZATION_NAME, "É" * 200)),
    "attributes in a set": x509.Name([
        x509.RelativeDistinguishedName([
            x509.NameAttribute(NameOID.SURNAME, "B"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Longer"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a"),
        ]),
        x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "Last")]),
    ]),
    "PrintableString": typed(_ASN1Type.PrintableString, "A  Root"),
    "T61String": typed(_ASN1Type.T61String, "A  Rööt"),
    "IA5String": typed(_ASN1Type.IA5String, "A  Root"),
    "BMPString": typed(_ASN1Type.BMPString, "A  Rööt Ґ"),
    "UniversalString": typed(_ASN1Type.UniversalString, "A  Rööt Ґ"),
    "NumericString, not compared as text": typed(_ASN1Type.NumericString, "12  34"),
    "BitString, not text": typed(_ASN1Type.BitString, b"\x00\x01\xff", NameOID.X500_UNIQUE_IDENTIFIER),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_folder_finds_an_authority_whatever_its_name(tmp_path: Path, name: x509.Name) -> None:
    authority = Authority(name)
    folder = rehashed(tmp_path, authority) / "authorities"

    assert verify_error(ssl.create_default_context(capath=folder), authority.issue(tmp_path)) == 0
    assert verify_error(ssl.create_default_context(capath=AUTHORITIES), authority.issue(tmp_path)) == NO_ISSUER


def test_authorities_of_one_name_are_both_found(tmp_path: Path) -> None:
    twins = [Authority(named((NameOID.COMMON_NAME, "Twin"))) for _ in range(2)]
    folder = rehashed(tmp_path, *twins) / "authorities"
    context = ssl.create_default_context(capath=folder)

    assert [verify_error(context, twin.issue(tmp_path)) for twin in twins] == [0, 0]
    assert len(list(folder.glob("*.1"))) == 1


# ---- a file elsewhere, a folder in the built layer; neither is missing unnoticed


def test_a_file_of_authorities_is_read_where_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(named((NameOID.COMMON_NAME, "Root")))
    file = tmp_path / "one.pem"
    file.write_text(authority.pem)
    monkeypatch.setattr(certifi, "where", lambda: str(file))

    assert verify_error(verifying_context(), authority.issue(tmp_path)) == 0


@pytest.mark.parametrize("what", ["missing", "empty", "not a certificate file"])
def test_no_authorities_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    place = tmp_path / "authorities"
    if what != "missing":
        place.mkdir()
    if what == "not a certificate file":
        (place / "0.0").mkdir()
    monkeypatch.setattr(certifi, "where", lambda: str(place))

    with pytest.raises(NoAuthoritiesError, match=f"no certificate authorities can be read from {place}: "):
        verifying_context()


@pytest.mark.parametrize("handler", ["status_check", "refund_api", "refund_worker", "recovery", "audit_query"])
def test_a_function_without_authorities_does_not_start(tmp_path: Path, handler: str) -> None:
    shutil.copytree(LAYER / "certifi", tmp_path / "certifi", ignore=shutil.ignore_patterns("authorities"))

    done = run(f"import {handler}.handler", tmp_path)

    assert done.returncode == 1
    assert "NoAuthoritiesError: no certificate authorities can be read from" in done.stderr.splitlines()[-1]


# ---- connections, as the functions make them


CONNECT = """
import json
import os
from types import SimpleNamespace

from gateway.runtime.aws import AwsClients
from gateway.runtime.bootstrap import Gateway
from gateway.runtime.settings import Settings


def outcome(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "answered"


secret = {"SecretString": json.dumps({"apiKey": "key", "secretKey": "secret"})}
known = SimpleNamespace(secretsmanager=SimpleNamespace(get_secret_value=lambda **_: secret))
indodana = Gateway(Settings.from_environment(os.environ), known).indodana
print(json.dumps({
    "aws": outcome(lambda: AwsClients().secretsmanager.get_secret_value(SecretId="s")),
    "indodana": outcome(lambda: indodana.check_status("m1", "ORDER-1")),
}))
"""


def run(program: str, certifi_from: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """With what is built, but certifi from this folder."""
    return subprocess.run(
        [sys.executable, "-S", "-B", "-c", program],
        env={
            **Template.load_local().model().environment(),
            "PYTHONPATH": os.pathsep.join(map(str, (certifi_from, BUILD / "RefundApiFunction", LAYER))),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "nonsense",
            "AWS_REGION": "ap-southeast-3",
            "AWS_DEFAULT_REGION": "ap-southeast-3",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Server(ThreadingHTTPServer):
    """Answers {} over TLS with this certificate, and counts."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answered: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def url(self, host: str) -> str:
        return f"https://{host}:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Nothing: a client that refuses the certificate hangs up."""


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.answered.append(self.command)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def private() -> Authority:
    return Authority(named((NameOID.COMMON_NAME, "Private Root")))


@pytest.fixture(scope="module")
def trusting_private(private: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built certifi, which trusts the private authority too, and its namesake."""
    folder = tmp_path_factory.mktemp("trusting")
    rehashed(folder, Authority(private.name), private)
    return folder


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], Server]]:
    with ExitStack() as running:

        def start(certificate: Path) -> Server:
            server = running.enter_context(Server(certificate))
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            running.callback(server.shutdown)
            return server

        yield start


def connected(server: Server, trusting: Path, host: str = "127.0.0.1") -> dict[str, str]:
    url = server.url(host)
    done = run(CONNECT, trusting, AWS_ENDPOINT_URL=url, INDODANA_URL=url, AWS_MAX_ATTEMPTS="1")
    assert done.returncode == 0, done.stderr
    outcomes: dict[str, str] = json.loads(done.stdout)
    return outcomes


def test_connections_trust_an_authority_of_the_folder(
    serve: Callable[[Path], Server], private: Authority, trusting_private: Path, tmp_path: Path
) -> None:
    server = serve(private.issue(tmp_path))

    outcomes = connected(server, trusting_private)

    assert outcomes["aws"] == "answered"
    assert outcomes["indodana"].startswith("AnswerUnreadable")  # {} is no status
    assert server.answered == ["POST", "GET"]


def test_connections_refuse_another_host(
    serve: Callable[[Path], Server], private: Authority, trusting_private: Path, tmp_path: Path
) -> None:
    server = serve(private.issue(tmp_path))
    refused_with(connected(server, trusting_private, host="localhost"), server, "Hostname mismatch")


def test_connections_refuse_an_unknown_issuer(
    serve: Callable[[Path], Server], private: Authority, trusting_private: Path, tmp_path: Path
) -> None:
    stranger = Authority(named((NameOID.COMMON_NAME, "Stranger")))
    server = serve(stranger.issue(tmp_path))
    refused_with(connected(server, trusting_private), server, "unable to get local issuer certificate")


def test_connections_refuse_an_issuer_that_only_has_the_name(
    serve: Callable[[Path], Server], private: Authority, trusting_private: Path, tmp_path: Path
) -> None:
    server = serve(Authority(private.name).issue(tmp_path))
    refused_with(connected(server, trusting_private), server, "unable to get local issuer certificate")


def test_connections_refuse_an_expired_certificate(
    serve: Callable[[Path], Server], private: Authority, trusting_private: Path, tmp_path: Path
) -> None:
    server = serve(private.issue(tmp_path, lasts=-timedelta(hours=1)))
    refused_with(connected(server, trusting_private), server, "certificate has expired")


def test_connections_refuse_the_private_authority_as_built(
    serve: Callable[[Path], Server], private: Authority, tmp_path: Path
) -> None:
    server = serve(private.issue(tmp_path))
    refused_with(connected(server, LAYER), server, "unable to get local issuer certificate")


def refused_with(outcomes: dict[str, str], server: Server, why: str) -> None:
    for outcome in outcomes.values():
        assert f"CERTIFICATE_VERIFY_FAILED] certificate verify failed: {why}" in outcome
    assert outcomes["aws"].startswith("SSLError")
    assert outcomes["indodana"].startswith("ConnectionFailed")
    assert server.answered == []
