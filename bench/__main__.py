"""Measures cold starts, warm calls, batches, memory and size of the built gateway beside floors and peers.

    python -m bench [--release]

prints one table. It exits with 1 if a bound is missed or a figure is worse than in the last release by more than noise.
`--release` keeps the figures as the release's in bench/release.json and draws docs/bench.svg from them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

from bench import layout, suite
from bench.figures import Figure
from bench.picture import draw
from bench.stub import Stub
from bench.table import regressions, table
from devstack.samconfig import ROOT
from devstack.template import Template

RELEASE = Path(__file__).parent / "release.json"
PICTURE = ROOT / "docs" / "bench.svg"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--release", action="store_true", help="keep the figures as those of the release")
    options = parser.parse_args(arguments)
    released = {} if options.release else load(RELEASE)

    figures = measure()
    print(table(figures, released))
    worse = regressions(figures, released)
    print("".join(f"\nWorse than the last release: {text}" for text in worse))
    if options.release:
        keep(figures)
    return 1 if worse or not all(figure.is_met for figure in figures) else 0


def measure() -> list[Figure]:
    template = Template.load_local()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        places = layout.Layout(folder, template)
        with Stub() as stub:
            late = suite.stub_lateness_microseconds(stub)
            figures = suite.measure(template, places, stub, _progress)
    finally:
        layout.remove(folder)
    _progress(f"the stub answered {late.median:.0f} µs late (quartiles {late.low:.0f} and {late.high:.0f})")
    return figures


def load(path: Path) -> dict[str, Figure]:
    """The figures of the last release; empty before the first."""
    if not path.exists():
        return {}
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return {key: Figure.from_json(key, fields) for key, fields in figures.items()}


def keep(figures: list[Figure]) -> None:
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    content = {"on": machine, "figures": {figure.key: figure.to_json() for figure in figures}}
    RELEASE.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PICTURE.write_text(draw(list(load(RELEASE).values())), encoding="utf-8")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
