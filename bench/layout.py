"""Lays out the measured code as Lambda does: the built function in task/, the layer in opt/, a bare interpreter.

As in Lambda, every file is dated 1980, as `sam build` packs it, so timestamp-based bytecode is ignored; the disk is
read-only and no bytecode is written; the environment is Lambda's and the template's, not the machine's. The interpreter
is that of an empty virtual environment, because the machine's may import packages by .pth files.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from bench.stub import API_KEY, SECRET_KEY
from devstack.samconfig import ROOT
from devstack.template import Model, Template

BUILD = ROOT / ".aws-sam" / "build"
PACKAGES = ROOT / ".bench"
SUBJECTS = Path(__file__).parent / "subjects"
SAM_DATE = 315_532_800  # 1980-01-01, in seconds since 1970


@dataclass(frozen=True)
class Sandbox:
    """How a measured process is started."""

    handler: str
    """module:attribute"""
    path: tuple[Path, ...]
    environment: Mapping[str, str] = field(repr=False)
    python: Path

    def arguments(self, *arguments: str) -> dict[str, Any]:
        """For subprocess.Popen."""
        environment = {**self.environment, "PYTHONPATH": os.pathsep.join(map(str, self.path))}
        return {"args": [str(self.python), "-P", *arguments], "env": environment, "cwd": "/"}


class Layout:
    """All measured code under `folder`, which must be empty."""

    def __init__(self, folder: Path, template: Template) -> None:
        self._folder = folder
        self._functions = template.model().functions
        for logical_id in self._functions:
            shutil.copytree(BUILD / logical_id, folder / logical_id / "task")
        for layer in _layers(template):
            shutil.copytree(BUILD / layer, folder / "opt")
        shutil.copytree(SUBJECTS, folder / "peers")
        shutil.copytree(SUBJECTS, folder / "peers-source")
        shutil.copytree(PACKAGES / "usual", folder / "usual-source", ignore=shutil.ignore_patterns("__pycache__"))
        venv.EnvBuilder(with_pip=False, symlinks=True).create(folder / "venv")
        self._python = folder / "venv" / "bin" / "python"
        compileall.compile_dir(folder / "peers", quiet=2)
        for place in (*(folder / logical_id for logical_id in self._functions), folder / "opt"):
            _seal(place)

    def function(self, model: Model, logical_id: str) -> Sandbox:
        task = self._folder / logical_id / "task"
        function = model.functions[logical_id]
        module, _, attribute = function.handler.rpartition(".")
        path = (task, self._folder / "opt" / "python")
        environment = _lambda_environment(model, function.name, function.memory_mb, task)
        return Sandbox(f"{module}:{attribute}", path, {**environment, **function.environment}, self._python)

    def gateway(self, model: Model, module: str) -> Sandbox:
        """A script of the bench with the gateway's code on its path."""
        first = next(iter(self._functions))
        sandbox = self.function(model, first)
        return Sandbox(module, (*sandbox.path, self._folder / "peers"), sandbox.environment, self._python)

    def floor(self, model: Model, handler: str) -> Sandbox:
        return self._peer(model, handler, self._folder / "peers", PACKAGES / "floor")

    def usual(self, model: Model, handler: str) -> Sandbox:
        """With bytecode, for a project that compiles it."""
        return self._peer(model, handler, self._folder / "peers", PACKAGES / "usual")

    def usual_as_shipped(self, model: Model, handler: str) -> Sandbox:
        """As `sam build` ships it: without bytecode."""
        return self._peer(model, handler, self._folder / "peers-source", self._folder / "usual-source")

    def _peer(self, model: Model, handler: str, task: Path, packages: Path) -> Sandbox:
        environment = _lambda_environment(model, "peer", 256, task)
        environment |= {"API_KEY": API_KEY, "SECRET_KEY": SECRET_KEY, **model.environment()}
        return Sandbox(handler, (task, packages), environment, self._python)

    def deployed_bytes(self) -> int:
        """Of all functions and the layer, unpacked, with the bytecode that they have or would compile."""
        folder = self._folder / "with-bytecode"
        for logical_id in self._functions:
            shutil.copytree(self._folder / logical_id, folder / logical_id)
        shutil.copytree(self._folder / "opt", folder / "opt")
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for source in folder.rglob("*.py"):
            if not Path(cache_from_source(source)).exists():
                py_compile.compile(str(source), quiet=2)
        return _bytes_in(folder)


def usual_bytes() -> int:
    """Of boto3, botocore, requests and Powertools as installed, without bytecode."""
    return _bytes_in(PACKAGES / "floor", lambda path: path.suffix != ".pyc")


def remove(folder: Path) -> None:
    """Removes a layout with its read-only folders."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def _layers(template: Template) -> list[str]:
    resources = template.section("Resources")
    return [name for name, resource in resources.items() if resource["Type"] == "AWS::Serverless::LayerVersion"]


def _lambda_environment(model: Model, function_name: str, memory_mb: int, task: Path) -> dict[str, str]:
    """Those of Lambda's "defined runtime environment variables" that are read."""
    return {
        "AWS_ACCESS_KEY_ID": "ASIAEXAMPLE",
        "AWS_DEFAULT_REGION": model.region,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "AWS_LAMBDA_FUNCTION_NAME": function_name,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_REGION": model.region,
        "AWS_SECRET_ACCESS_KEY": "example",
        "AWS_SESSION_TOKEN": "example",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "HOME": "/nonexistent",
        "LAMBDA_TASK_ROOT": str(task),
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",  # for root, which may write to read-only folders
        "TZ": ":UTC",
    }


def _seal(place: Path) -> None:
    for path in sorted(place.rglob("*"), reverse=True):
        os.utime(path, (SAM_DATE, SAM_DATE))
        path.chmod(0o555 if path.is_dir() else 0o444)
    place.chmod(0o555)


def _bytes_in(folder: Path, counts: Callable[[Path], bool] = lambda _: True) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and counts(path))
