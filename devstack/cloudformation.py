"""As much of CloudFormation as template.yaml uses: loading, parameters, intrinsic functions, references.

Anything else is a TemplateError that names it. What a resource is for stands in template.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

import yaml

from devstack.errors import TemplateError
from devstack.samconfig import DEFAULT_REGION, DEFAULT_STACK_NAME, ROOT
from devstack.yaml_loader import SafeLoader

ACCOUNT_ID = "123456789012"
"""The account moto answers for."""
SENDER_ID = "AIDAIT2UOQQY3AUEKVGXU"
"""The sender of every message in moto's queues."""


class _Loader(SafeLoader):
    """YAML with CloudFormation's short forms. A key that stands twice in a mapping is an error."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix == "Ref" else f"Fn::{suffix}": value}


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise TemplateError(f"line {node.start_mark.line + 1}: the key {key!r} stands twice in one mapping")
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _short_form)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
# Versions like 2012-10-17 are texts to CloudFormation, not dates.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


class Document:
    """A loaded template and its parameters' values."""

    def __init__(
        self,
        document: Mapping[str, Any],
        *,
        folder: Path = ROOT,
        region: str = DEFAULT_REGION,
        stack_name: str = DEFAULT_STACK_NAME,
        endpoint_url: str = "http://127.0.0.1",
        defaults: Mapping[str, str] | None = None,
        samconfig: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
        own: Mapping[str, str] | None = None,
    ) -> None:
        """Parameters: the template's defaults, then `defaults`, then samconfig's, then `overrides`, then `own`.

        All but samconfig's may name parameters that this template does not have. `own` are the local stack's addresses,
        on this machine and without TLS: the parameters' patterns, which are for AWS, do not apply to them.
        """
        self.document = document
        self.folder = folder
        self.region = region
        self.stack_name = stack_name
        self.endpoint_url = endpoint_url
        for name in samconfig or {}:
            if name not in self.section("Parameters"):
                raise TemplateError(f"samconfig.toml gives the parameter {name}, which template.yaml does not declare")
        given = {**(defaults or {}), **(samconfig or {}), **(overrides or {})}
        self.parameters = self._parameter_values(given, own or {})

    @classmethod
    def load(cls, path: Path = ROOT / "template.yaml", **options: Any) -> Self:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise TemplateError(f"there is no {path}") from error
        try:
            document = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise TemplateError(f"{path.name} is not YAML: {error}") from error
        if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
            raise TemplateError(f"{path.name} has no Resources")
        return cls(document, folder=path.parent, **options)

    def section(self, name: str) -> Mapping[str, Any]:
        section = self.document.get(name) or {}
        if not isinstance(section, dict):
            raise TemplateError(f"{name} is not a mapping")
        return section

    def _parameter_values(self, given: Mapping[str, str], own: Mapping[str, str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, declaration in self.section("Parameters").items():
            if name in own:
                values[name] = own[name]
                continue
            raw = given.get(name, declaration.get("Default"))
            if raw is None:
                raise TemplateError(f"the parameter {name} has no default, and samconfig.toml gives none")
            values[name] = _parameter(name, declaration, raw)
        return values


def check_properties(properties: Any, used: frozenset[str], ignored: frozenset[str], where: str) -> None:
    if not isinstance(properties, dict):
        raise TemplateError(f"{where} is not a mapping")
    for name in properties:
        if name not in used and name not in ignored:
            raise TemplateError(f"{where} has the property {name}, which the local stack does not support")


PARAMETER_PROPERTIES = frozenset(
    {
        "AllowedPattern",
        "AllowedValues",
        "ConstraintDescription",
        "Default",
        "Description",
        "MaxLength",
        "MaxValue",
        "MinValue",
        "Type",
    }
)


def _parameter(name: str, declaration: Mapping[str, Any], raw: Any) -> Any:
    kind, text = declaration.get("Type"), str(raw)
    hint = declaration.get("ConstraintDescription", "")

    def refuse(why: str) -> NoReturn:
        raise TemplateError(f"the parameter {name} is {text!r}, {why}{f' ({hint})' if hint else ''}")

    if kind not in ("String", "Number"):
        raise TemplateError(f"the parameter {name} has the type {kind}, which the local stack does not support")
    check_properties(declaration, PARAMETER_PROPERTIES, frozenset(), f"the parameter {name}")
    allowed = [str(value) for value in declaration.get("AllowedValues", [])]
    if allowed and text not in allowed:
        refuse(f"not one of {', '.join(allowed)}")
    if "AllowedPattern" in declaration and not re.fullmatch(declaration["AllowedPattern"], text):
        refuse(f"which does not match {declaration['AllowedPattern']}")
    if kind == "String":
        if len(text) > int(declaration.get("MaxLength", len(text))):
            refuse("which is too long")
        return text
    try:
        number = float(text)
    except ValueError:
        refuse("not a number")
    if not float(declaration.get("MinValue", number)) <= number <= float(declaration.get("MaxValue", number)):
        refuse("out of its range")
    return int(number) if number.is_integer() else number


class _NoValue:
    """AWS::NoValue: what holds it is left out."""


NO_VALUE = _NoValue()


class Resolver:
    """Resolves intrinsic functions and references, lazily: what nothing reads need not be supported."""

    def __init__(self, template: Document, actual: Mapping[str, Mapping[str, str]]) -> None:
        self.template = template
        self.actual = actual
        self.resources: dict[str, dict[str, Any]] = {}
        for logical_id, resource in template.document["Resources"].items():
            if not isinstance(resource, dict) or not isinstance(resource.get("Type"), str):
                raise TemplateError(f"{logical_id} has no Type")
            self.resources[logical_id] = resource

    # Intrinsic functions

    def resolve(self, value: Any, where: str) -> Any:
        if isinstance(value, dict):
            if len(value) == 1:
                name, argument = next(iter(value.items()))
                if isinstance(name, str) and (name in ("Ref", "Condition") or name.startswith("Fn::")):
                    return self.intrinsic(name, argument, where)
            resolved = {key: self.resolve(item, f"{where}.{key}") for key, item in value.items()}
            return {key: item for key, item in resolved.items() if item is not NO_VALUE}
        if isinstance(value, list):
            items = [self.resolve(item, f"{where}[{index}]") for index, item in enumerate(value)]
            return [item for item in items if item is not NO_VALUE]
        if isinstance(value, str) and "{{resolve:" in value:
            raise TemplateError(f"{where}: the local stack does not support dynamic references ({value})")
        return value

    def intrinsic(self, name: str, argument: Any, where: str) -> Any:
        match name, argument:
            case "Ref", str():
                return self.reference(argument, where)
            case "Fn::GetAtt", str():
                return self.attribute(*_dotted(argument, where), where)
            case "Fn::Sub", str():
                return self.substitute(argument, where)
            case "Fn::If", [str() as condition, then, otherwise]:
                return self.resolve(then if self.condition(condition, where) else otherwise, where)
            case "Fn::Equals", [left, right]:
                return str(self.resolve(left, where)) == str(self.resolve(right, where))
            case "Fn::Join", [str() as delimiter, parts]:
                return delimiter.join(self.resolve(parts, where))
            case "Fn::Split", [str() as delimiter, text]:
                return str(self.resolve(text, where)).split(delimiter)
            case "Fn::Not", [only]:
                return not self.truth(only, where)
        raise TemplateError(f"{where}: the local stack does not support {name} of {argument!r}")

    def truth(self, value: Any, where: str) -> bool:
        resolved = self.resolve(value, where)
        if not isinstance(resolved, bool):
            raise TemplateError(f"{where}: {value!r} is not a condition")
        return resolved

    def condition(self, name: str, where: str) -> bool:
        conditions = self.template.section("Conditions")
        if name not in conditions:
            raise TemplateError(f"{where}: there is no condition {name}")
        return self.truth(conditions[name], f"Conditions.{name}")

    def reference(self, name: str, where: str) -> Any:
        pseudo = {
            "AWS::Region": self.template.region,
            "AWS::StackName": self.template.stack_name,
            "AWS::NoValue": NO_VALUE,
        }
        if name in pseudo:
            return pseudo[name]
        if name in self.template.parameters:
            return self.template.parameters[name]
        return self.attribute(name, "Ref", where)

    def substitute(self, text: str, where: str) -> str:
        def replacement(match: re.Match[str]) -> str:
            name = match[1].strip()
            if "." in name:
                return str(self.attribute(*_dotted(name, where), where))
            return str(self.reference(name, where))

        return re.sub(r"\$\{([^}]*)\}", replacement, text)

    def attribute(self, logical_id: str, attribute: str, where: str) -> Any:
        """What `Ref` (attribute "Ref") or `GetAtt` of a resource gives."""
        if logical_id not in self.resources:
            raise TemplateError(f"{where}: there is neither a parameter nor a resource {logical_id}")
        known = self.actual.get(logical_id, {})
        if attribute in known:
            return known[attribute]
        kind, name = self.resources[logical_id]["Type"], self.name(logical_id)
        match kind, attribute:
            case "AWS::DynamoDB::Table", "Ref":
                return name
            case "AWS::SQS::Queue", "Ref":
                return f"{self.template.endpoint_url}/{ACCOUNT_ID}/{name}"
            case "AWS::SQS::Queue", "Arn":
                return self.arn("sqs", name)
            case "AWS::Serverless::Function", "Arn":
                return self.arn("lambda", f"function:{name}")
            case "AWS::Serverless::LayerVersion", "Ref":
                return self.arn("lambda", f"layer:{logical_id}:1")
        raise TemplateError(f"{where}: the local stack does not support {attribute} of {logical_id}, a {kind}")

    def arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self.template.region}:{ACCOUNT_ID}:{resource}"

    def name(self, logical_id: str) -> str:
        """The physical name, made of the stack's as CloudFormation does; template.yaml names none itself."""
        return f"{self.template.stack_name}-{logical_id}"

    def check_rules(self) -> None:
        """As CloudFormation does before it makes anything."""
        for name, rule in self.template.section("Rules").items():
            if "RuleCondition" in rule and not self.truth(rule["RuleCondition"], f"Rules.{name}"):
                continue
            for assertion in rule["Assertions"]:
                if not self.truth(assertion["Assert"], f"Rules.{name}"):
                    raise TemplateError(assertion["AssertDescription"])

    # Resources

    def properties(self, logical_id: str) -> dict[str, Any]:
        properties = self.resources[logical_id].get("Properties") or {}
        if not isinstance(properties, dict):
            raise TemplateError(f"{logical_id}.Properties is not a mapping")
        return properties

    def of_type(self, kind: str) -> list[str]:
        """The logical ids of that type whose own condition holds."""
        return [
            logical_id
            for logical_id, resource in self.resources.items()
            if resource["Type"] == kind
            and ("Condition" not in resource or self.condition(resource["Condition"], logical_id))
        ]


def _dotted(text: str, where: str) -> tuple[str, str]:
    logical_id, dot, attribute = text.partition(".")
    if not dot:
        raise TemplateError(f"{where}: {text!r} is not Resource.Attribute")
    return logical_id, attribute
