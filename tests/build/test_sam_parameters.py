"""SAM reads the file of parameters that `make deploy` gives it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.transformed import SAM_PYTHON


def test_sam_reads_the_parameters_as_they_are(tmp_path: Path) -> None:
    values = {"MerchantId": "m1", "AlarmTopicArn": "", "Odd": "a \"b\" 'c' $d, e=f", "Number": "007"}
    path = tmp_path / "parameters.yaml"
    path.write_text(json.dumps(values, indent=1))
    program = (
        "import json, sys; from samcli.cli.types import CfnParameterOverridesType as Type; "
        "print(json.dumps(Type().convert((sys.argv[1],), None, None)))"
    )
    done = subprocess.run([SAM_PYTHON, "-c", program, path.as_uri()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == values
