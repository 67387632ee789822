"""Installs a requirements file into a venv and shows how far it is: the Makefile's first step on a new machine.

    python devstack/install.py .venv requirements/run.txt "the local stack (about 25 s, 140 MB, once)"

What is downloaded must have one of the hashes of that file. Only wheels are taken: a source archive would run its own
setup, with packages that no file here pins.

Runs before anything is installed, so it uses the standard library alone.
"""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

REFRESH_SECONDS = 0.5
# Where no terminal shows one line that changes, a line is printed so often.
LINE_SECONDS = 5.0
PIP = (
    *("-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"),
    *("--require-hashes", "--only-binary", ":all:"),
)


class Progress:
    """One line that changes on a terminal, a line every few seconds elsewhere."""

    def __init__(self, out: TextIO, heading: str) -> None:
        self._out = out
        self._heading = heading
        self._started = self._printed = time.monotonic()
        self._phase = "creating the virtual environment"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> "Progress":
        print(f"{self._heading} …", file=self._out, flush=True)
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._out.isatty():
            print("\r\033[K", end="", file=self._out)
        if kind is None:
            print(f"  installed in {self._seconds:.0f} s", file=self._out, flush=True)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def says(self, phase: str) -> None:
        self._phase = phase

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            text = f"  {self._seconds:3.0f} s  {self._phase}"
            if self._out.isatty():
                print(f"\r\033[K{text[:78]}", end="", file=self._out, flush=True)
            elif time.monotonic() - self._printed >= LINE_SECONDS:
                self._printed = time.monotonic()
                print(text, file=self._out, flush=True)


def phases(pip_output: Iterable[str]) -> Iterable[str]:
    """What pip does, line by line of its output."""
    packages = 0
    for line in pip_output:
        if found := re.match(r"\s*(?:Collecting ([\w.-]+)|Processing \S*?([\w.]+)-\d[^/]*$)", line):
            packages += 1
            yield f"package {packages}: {found[1] or found[2]}"
        elif line.startswith("Installing collected packages:"):
            yield f"unpacking {line.count(',') + 1} packages"


def install(venv: Path, requirements: Path, progress: Progress) -> None:
    """Raises CalledProcessError with pip's output."""
    python = venv / "bin" / "python"
    _run([sys.executable, "-m", "venv", str(venv)], progress)
    _run([str(python), *PIP, "-r", str(requirements)], progress)


def _run(command: list[str], progress: Progress) -> None:
    output: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None

        def lines() -> Iterable[str]:
            for line in process.stdout or ():
                output.append(line)
                yield line

        for phase in phases(lines()):
            progress.says(phase)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, "".join(output))


def main(arguments: list[str]) -> int:
    venv, requirements, what = arguments
    try:
        with Progress(sys.stderr, f"Installing {what} into {venv}") as progress:
            install(Path(venv), Path(requirements), progress)
    except subprocess.CalledProcessError as error:
        print(error.output, file=sys.stderr)
        print(f"{requirements} could not be installed into {venv}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
