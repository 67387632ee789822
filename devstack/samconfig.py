"""samconfig.toml, as SAM reads it. Standard library only: `make deploy` looks at it before anything is installed."""

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devstack.errors import TemplateError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_REGION = "ap-southeast-3"
DEFAULT_STACK_NAME = "qris-gateway"


@dataclass(frozen=True)
class SamConfig:
    """What samconfig.toml says of one environment."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    region: str = DEFAULT_REGION
    stack_name: str = DEFAULT_STACK_NAME
    profile: str | None = None
    deployed: tuple[str, ...] = ()
    """The environments that can be deployed."""


def load_samconfig(path: Path, environment: str = "local") -> SamConfig:
    """The environment's `global` and `deploy` sections; the second wins, as in SAM."""
    if not path.exists():
        return SamConfig()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TemplateError(f"{path.name} is not TOML: {error}") from error
    settings: dict[str, Any] = {}
    parameters: dict[str, str] = {}
    for command in ("global", "deploy"):
        section = document.get(environment, {}).get(command, {}).get("parameters", {})
        settings |= section
        parameters |= parse_overrides(section.get("parameter_overrides", ""), f"{path.name}: parameter_overrides")
    return SamConfig(
        parameters,
        settings.get("region", DEFAULT_REGION),
        settings.get("stack_name", DEFAULT_STACK_NAME),
        settings.get("profile"),
        tuple(name for name, commands in document.items() if isinstance(commands, dict) and "deploy" in commands),
    )


def parse_overrides(overrides: Any, where: str) -> dict[str, str]:
    """`Name=value …`, as one text or as a list."""
    words = shlex.split(overrides) if isinstance(overrides, str) else [str(word) for word in overrides]
    parsed = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or name == "ParameterKey":
            raise TemplateError(f"{where} holds {word!r}, which is not Name=value")
        parsed[name] = value
    return parsed
