"""ministack, an AWS emulator that enforces IAM, as a process from .venv-ministack (`make verify` installs it)."""

from __future__ import annotations

import socket
from pathlib import Path

from testkit.processes import ROOT, Program

PYTHON = ROOT / ".venv-ministack" / "bin" / "python"
REGION = "ap-southeast-3"
# Twelve digits are the root user of the account with this number. What others may do, their policies say.
ACCOUNT = "123456789012"
ROOT_KEYS = {"aws_access_key_id": ACCOUNT, "aws_secret_access_key": "root"}


class Ministack(Program):
    """Listens on 127.0.0.1 and is ready once it is made; empty, for its data is in its memory.

    With `enforce_iam` every request needs a signature by a known key and a policy that allows it. With `certificate`
    (a file with the key, too) it listens for TLS alone: queue policies can tell.
    """

    def __init__(self, directory: Path, *, enforce_iam: bool = False, certificate: Path | None = None) -> None:
        port = _free_port()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
        tls = ["--certfile", str(certificate), "--keyfile", str(certificate)] if certificate else []
        # Not ministack's own command, which binds port 443 as well where it can.
        super().__init__(
            directory,
            "hypercorn",
            "ministack.app:app",
            "--bind",
            f"127.0.0.1:{port}",
            *tls,
            name="ministack",
            python=PYTHON,
            environment={
                "AUTH": "true" if enforce_iam else "false",
                "AWS_ACCESS_KEY_ID": ACCOUNT,  # its root's, instead of one that the shell has
                "GATEWAY_PORT": str(port),
                "IOT_MTLS_ENABLED": "0",
                "MINISTACK_HOST": "127.0.0.1",
                "MINISTACK_REGION": REGION,
                "TMPDIR": str(directory),
                "USE_SSL": "1" if certificate else "0",
            },
        )
        try:
            self.wait_for("Running on")
        except BaseException:
            self.kill()
            raise


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
