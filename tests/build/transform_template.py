"""Runs SAM's own transform, as CloudFormation does at a deployment. For .venv-sam's interpreter, which has it.

Reads a JSON list of variants from standard input, each with "parameters", "configuration" (what `make deploy` stamps),
"code" and "layer" (what was uploaded, by a name of its content), and prints the list of templates that they become.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator


def transform(template: dict[str, Any], variant: dict[str, Any]) -> Any:
    packaged = copy.deepcopy(template)
    packaged["Globals"]["Function"]["CodeUri"] = f"s3://bucket/{variant['code']}"
    packaged["Resources"]["IndodanaLayer"]["Properties"]["ContentUri"] = f"s3://bucket/{variant['layer']}"
    packaged["Globals"]["Function"]["Environment"]["Variables"]["CONFIGURATION"] = variant["configuration"]
    return Translator({}, Parser()).translate(packaged, variant["parameters"])


source = yaml_parse((Path(__file__).parents[2] / "template.yaml").read_text())
json.dump([transform(source, variant) for variant in json.load(sys.stdin)], sys.stdout)
