"""Local tokens, and the checks of the JWT authorizer that stands before every route."""

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from devstack import local_files, tokens
from devstack.api_gateway.authorizer import ForbiddenError, UnauthorizedError, authorize
from devstack.template import Authorizer
from devstack.tokens import Issuer

ISSUER = "http://issuer.test"
AUTHORIZER = Authorizer("Jwt", ISSUER, ("gateway", "other"))


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(ISSUER, tmp_path_factory.mktemp("keys"))


def token(issuer: Issuer, scopes: str = "read", **claims: Any) -> str:
    return issuer.token(scopes.split(), audience="gateway", merchant="m1", claims=claims)


def check(issuer: Issuer, text: str | None, *scopes: str) -> dict[str, Any]:
    return authorize(text, AUTHORIZER, scopes, issuer.keys())


def raw(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def good_claims() -> dict[str, Any]:
    return {"iss": ISSUER, "aud": "gateway", "exp": time.time() + 60, "scope": "read"}


def test_token_opens_a_route_by_any_one_of_its_scopes(issuer: Issuer) -> None:
    claims = check(issuer, f"Bearer {token(issuer, 'a b')}", "b", "c")
    assert (claims["merchant_id"], claims["sub"], claims["client_id"]) == ("m1", "local-developer", "local-developer")
    assert {"iss", "aud", "scope", "iat", "exp", "jti"} <= set(claims)
    assert check(issuer, token(issuer), "read"), "the prefix Bearer may be left out"
    assert check(issuer, f"bEaReR {token(issuer)}")
    assert check(issuer, token(issuer, scope=None, scp=["x", "read"]), "read")


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "http://elsewhere.test"},
        {"iss": None},
        {"aud": "elsewhere"},
        {"aud": [], "client_id": "gateway"},
        {"aud": [{}]},
        {"aud": None, "client_id": "elsewhere"},
        {"exp": 1},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": 10**400},
        {"nbf": time.time() + 86_400},
        {"iat": time.time() + 86_400},
    ],
)
def test_invalid_claim_is_unauthorized(issuer: Issuer, claims: dict[str, Any]) -> None:
    with pytest.raises(UnauthorizedError):
        check(issuer, f"Bearer {token(issuer, **claims)}", "read")


def test_audience_may_be_a_list_or_the_client_id(issuer: Issuer) -> None:
    assert check(issuer, token(issuer, aud=["x", "other"]))
    assert check(issuer, token(issuer, aud=None, client_id="gateway"))


@pytest.mark.parametrize("claims", [{"scope": "write"}, {"scope": None}, {"scope": 7}, {"scope": "reader"}])
def test_token_without_the_scope_is_forbidden(issuer: Issuer, claims: dict[str, Any]) -> None:
    with pytest.raises(ForbiddenError):
        check(issuer, token(issuer, **claims), "read")


def test_other_keys_alg_none_and_hmac_are_unauthorized(issuer: Issuer, tmp_path: Path) -> None:
    ours = next(iter(issuer.keys()))
    assert isinstance(ours, RSAKey)
    pem = ours.as_pem(private=False)
    stranger = RSAKey.generate_key(2048)
    forged = [
        token(Issuer(ISSUER, tmp_path)),
        jwt.encode({"alg": "RS256", "kid": ours.kid}, good_claims(), stranger),
        raw({"alg": "none", "kid": ours.kid}, good_claims()),
        raw({"alg": "none", "kid": ours.kid}, good_claims(), b"x"),
        jwt.encode({"alg": "RS256"}, good_claims(), ours),
        jwt.encode({"alg": "RS256", "kid": "other"}, good_claims(), ours),
    ]
    unsigned = raw({"alg": "HS256", "kid": ours.kid}, good_claims()).rstrip(".")
    mac = base64.urlsafe_b64encode(hmac.digest(pem, unsigned.encode(), "sha256")).rstrip(b"=").decode()
    forged.append(f"{unsigned}.{mac}")
    for text in forged:
        with pytest.raises(UnauthorizedError):
            check(issuer, f"Bearer {text}", "read")


@pytest.mark.parametrize(
    "text",
    [None, "", "Bearer", "Bearer ", "Basic dTpw", "a.b.c", "..", "....", "é.é.é", "[]", "e30.e30.e30", "W10.W10.W10"],
)
def test_text_that_is_no_token_is_unauthorized(issuer: Issuer, text: str | None) -> None:
    with pytest.raises(UnauthorizedError):
        check(issuer, text)


def test_altered_token_is_unauthorized(issuer: Issuer) -> None:
    head, _, signature = token(issuer).split(".")
    body = base64.urlsafe_b64encode(json.dumps(good_claims()).encode()).rstrip(b"=").decode()
    with pytest.raises(UnauthorizedError):
        check(issuer, f"{head}.{body}.{signature}", "read")


def test_key_is_private_and_kept_and_its_public_half_published(tmp_path: Path) -> None:
    first = Issuer(ISSUER, tmp_path / "new")
    assert (tmp_path / "new" / "signing-key.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["signing-key.json"]
    assert check(Issuer(ISSUER, tmp_path / "new"), token(first))
    (published,) = first.jwks()["keys"]
    assert {"kid", "kty", "n", "e"} <= set(published)
    assert not {"d", "p", "q"} & set(published)


# The command


SCOPES = "transactions:read refunds:write refunds:read refunds:resolve audit:read"


def run_command(monkeypatch: pytest.MonkeyPatch, directory: Path, *arguments: str) -> int:
    monkeypatch.setattr(local_files, "LOCAL_ROOT", directory)
    monkeypatch.delenv("LOCAL_DIR", raising=False)
    return tokens.main(list(arguments))


def test_command_prints_a_token_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "9000")
    arguments = ["--scopes", "refunds:read audit:read", "--merchant", "m2", "--issuer", ISSUER, "--audience", "gateway"]
    assert run_command(monkeypatch, tmp_path, *arguments) == 0
    out, err = capsys.readouterr()
    claims = authorize(out.strip(), AUTHORIZER, ["audit:read"], Issuer(ISSUER, tmp_path / "9000").keys())
    assert (claims["scope"], claims["merchant_id"], err) == ("refunds:read audit:read", "m2", "")


def test_command_gives_every_scope_of_the_stack_on_its_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for port in ("8080", "9000"):
        (tmp_path / port).mkdir()
        (tmp_path / port / "stack.json").write_text(json.dumps({"issuer": f"http://127.0.0.1:{port}"}))
    for port, given in (("8080", None), ("9000", "9000")):
        monkeypatch.delenv("PORT", raising=False) if given is None else monkeypatch.setenv("PORT", given)
        assert run_command(monkeypatch, tmp_path, "--audience", "gateway") == 0
        authorizer = Authorizer("Jwt", f"http://127.0.0.1:{port}", ("gateway",))
        out, err = capsys.readouterr()
        claims = authorize(out.strip(), authorizer, (), Issuer(authorizer.issuer, tmp_path / port).keys())
        assert (claims["scope"], err) == (SCOPES, "")


def test_command_refuses_scopes_that_the_api_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        run_command(monkeypatch, tmp_path, "--scopes", "refunds:reed refunds:read", "--issuer", ISSUER)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"unknown scope refunds:reed; the API's scopes are: {SCOPES}\n")


def test_command_says_on_stderr_that_no_stack_runs_and_where_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "9000").mkdir()
    (tmp_path / "9000" / "stack.json").write_text("{}")
    monkeypatch.delenv("PORT", raising=False)
    assert run_command(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().err == "No stack runs on port 8080; PORT=9000 runs. The token works once one does.\n"
