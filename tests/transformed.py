"""What template.yaml becomes at a deployment, by SAM's own transform in .venv-sam (`make verify` has it installed)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SAM_PYTHON = ROOT / ".venv-sam" / "bin" / "python"


def transform(variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A template for each variant; tests/build/transform_template.py says what a variant is."""
    done = subprocess.run(
        [SAM_PYTHON, ROOT / "tests" / "build" / "transform_template.py"],
        input=json.dumps(variants),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"AWS_DEFAULT_REGION": "ap-southeast-3"},
    )
    assert done.returncode == 0, done.stderr
    templates: list[dict[str, Any]] = json.loads(done.stdout)
    return templates
