"""template.yaml as the local stack needs it: loaded, its intrinsics resolved, turned into a typed model.

Only what template.yaml uses is supported; anything else is a TemplateError that names it. A property that was silently
ignored here would work on the laptop and fail in AWS, or the other way round: a new one is either supported, or added
to the sets of those that have no meaning locally.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from devstack.cloudformation import SENDER_ID, Document, Resolver, check_properties
from devstack.errors import TemplateError
from devstack.samconfig import ROOT, load_samconfig


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Matched by prefix: they watch, permit or sign in, and none of it runs locally.
IGNORED_RESOURCE_TYPES = (
    *("AWS::CloudWatch::", "AWS::Cognito::", "AWS::Events::", "AWS::IAM::", "AWS::Logs::", "AWS::SQS::QueuePolicy"),
    "AWS::SecretsManager::ResourcePolicy",
)
FUNCTION_PROPERTIES = _names("CodeUri Environment Events Handler Layers MemorySize Timeout")
IGNORED_FUNCTION_PROPERTIES = _names(
    "Architectures AutoPublishAlias AutoPublishAliasAllProperties DeploymentPreference Description EventInvokeConfig "
    "LoggingConfig ProvisionedConcurrencyConfig ReservedConcurrentExecutions Role Runtime SnapStart Tracing"
)
API_PROPERTIES = frozenset({"DefinitionBody"})
IGNORED_API_PROPERTIES = _names("AccessLogSettings DefaultRouteSettings Description FailOnWarnings RouteSettings")
ROUTE_PROPERTIES = _names("ApiId Method Path")
MAPPING_PROPERTIES = _names("BatchSize FunctionResponseTypes Queue ScalingConfig")
TABLE_PROPERTIES = _names("AttributeDefinitions BillingMode GlobalSecondaryIndexes KeySchema")
IGNORED_TABLE_PROPERTIES = _names(
    "DeletionProtectionEnabled PointInTimeRecoverySpecification ResourcePolicy SSESpecification"
)
QUEUE_ATTRIBUTES = ("VisibilityTimeout", "MessageRetentionPeriod")
IGNORED_QUEUE_PROPERTIES = _names("KmsMasterKeyId SqsManagedSseEnabled")
SECRET_PROPERTIES = _names("GenerateSecretString Name")
IGNORED_SECRET_PROPERTIES = _names("Description KmsKeyId")
JWT_IDENTITY_SOURCE = "$request.header.Authorization"
AUTHORIZER = "x-amazon-apigateway-authorizer"

# Lambda's own defaults, where the template says nothing.
DEFAULT_TIMEOUT_SECONDS = 3
DEFAULT_MEMORY_MB = 128
DEFAULT_BATCH_SIZE = 10
LARGEST_BATCH = 10
"""Without a batching window."""
DEFAULT_CONCURRENCY = 5
ROUTE_TIMEOUT_SECONDS = 30.0
"""An HTTP API's own; it cannot be longer."""
RATE_UNIT_SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}


@dataclass(frozen=True)
class Function:
    logical_id: str
    name: str
    handler: str
    timeout_seconds: float
    memory_mb: int
    environment: Mapping[str, str]
    arn: str


@dataclass(frozen=True)
class Authorizer:
    name: str
    issuer: str
    audience: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    function: str
    method: str
    path: str
    authorizer: Authorizer | None
    scopes: tuple[str, ...]
    timeout_seconds: float

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class QueueMapping:
    function: str
    queue: str
    batch_size: int
    report_batch_item_failures: bool
    maximum_concurrency: int


@dataclass(frozen=True)
class Schedule:
    function: str
    name: str
    rate: timedelta


@dataclass(frozen=True)
class Table:
    logical_id: str
    name: str
    definition: Mapping[str, Any]
    """CreateTable's arguments; CloudFormation names them alike."""


@dataclass(frozen=True)
class Queue:
    logical_id: str
    name: str
    url: str
    arn: str
    attributes: Mapping[str, str]
    dead_letter_queue: str | None = None
    max_receive_count: int | None = None


@dataclass(frozen=True)
class Secret:
    logical_id: str
    name: str
    value: str


@dataclass(frozen=True)
class Model:
    region: str
    code_paths: tuple[Path, ...]
    """Where functions' and layers' code lies, in the order of Lambda's sys.path: functions first."""
    functions: Mapping[str, Function]
    routes: tuple[Route, ...]
    queue_mappings: tuple[QueueMapping, ...]
    schedules: tuple[Schedule, ...]
    tables: Mapping[str, Table]
    queues: Mapping[str, Queue]
    secrets: Mapping[str, Secret]

    @property
    def scopes(self) -> tuple[str, ...]:
        """Every scope that some route asks for, in the template's order."""
        return tuple(dict.fromkeys(scope for route in self.routes for scope in route.scopes))

    def environment(self) -> dict[str, str]:
        """The one environment of all functions; that they agree is what lets them share a process."""
        merged: dict[str, str] = {}
        owner: dict[str, str] = {}
        for function in self.functions.values():
            for name, value in function.environment.items():
                if merged.setdefault(name, value) != value:
                    raise TemplateError(
                        f"{owner[name]} and {function.logical_id} give the environment variable {name} different "
                        "values; the local stack runs all functions in one process, so they must agree"
                    )
                owner.setdefault(name, function.logical_id)
        return merged


class Template(Document):
    """The project's template; the rest of the stack uses its `model()`."""

    @classmethod
    def load_local(
        cls,
        path: Path = ROOT / "template.yaml",
        *,
        issuer: str | None = None,
        upstream_url: str | None = None,
        endpoint_url: str | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> "Template":
        """The template as the local stack runs it: with samconfig.toml's `local` values, or `parameters` instead, and
        with the stack's own URLs. Without other QueueSenders, whoever sends to the queue may refund for each merchant.
        """
        config = load_samconfig(path.parent / "samconfig.toml")
        own = {"JwtIssuer": issuer, "IndodanaUrl": upstream_url, "AwsEndpointUrl": endpoint_url}
        wanted = parameters or {}
        for name in own:
            if name in wanted:
                raise TemplateError(f"PARAMETERS gives {name}, which the local stack itself sets")
        template = cls.load(
            path,
            region=config.region,
            stack_name=config.stack_name,
            endpoint_url=endpoint_url or "http://127.0.0.1",
            defaults={
                "MerchantId": "m1",
                "MerchantClaim": "merchant_id",
                "MerchantIds": "m1,m2",
                "JwtAudience": "qris-gateway",
            },
            samconfig=config.parameters,
            overrides=wanted,
            own={name: value for name, value in own.items() if value is not None},
        )
        for name in wanted:
            if name not in template.section("Parameters"):
                raise TemplateError(f"PARAMETERS gives {name}, which template.yaml does not declare")
        given = template.parameters
        if "QueueSenders" in given and "QueueSenders" not in {**config.parameters, **wanted}:
            merchants = dict.fromkeys(filter(None, f"{given['MerchantId']},{given['MerchantIds']}".split(",")))
            given["QueueSenders"] = ",".join(f"{SENDER_ID}={merchant}" for merchant in merchants)
        return template

    def model(self, actual: Mapping[str, Mapping[str, str]] | None = None) -> Model:
        """`actual` holds what provisioning learnt, by logical id: {"RefundQueue": {"Ref": url, "Arn": arn}}."""
        return _Builder(self, actual or {}).build()


class _Builder(Resolver):
    """Reads the resources."""

    def build(self) -> Model:
        understood = {
            "AWS::DynamoDB::Table",
            "AWS::SQS::Queue",
            "AWS::SecretsManager::Secret",
            "AWS::Serverless::Function",
            "AWS::Serverless::HttpApi",
            "AWS::Serverless::LayerVersion",
        }
        for logical_id, resource in self.resources.items():
            kind = resource["Type"]
            if kind not in understood and not kind.startswith(IGNORED_RESOURCE_TYPES):
                raise TemplateError(
                    f"{logical_id} is a {kind}, which the local stack does not support "
                    "(if it does nothing locally, add it to IGNORED_RESOURCE_TYPES in devstack/template.py)"
                )
        self.check_rules()
        self.globals = self.template.section("Globals")
        for section in self.globals:
            if section != "Function":
                raise TemplateError(f"the local stack does not support Globals.{section}")
        self.queues = {logical_id: self.queue(logical_id) for logical_id in self.of_type("AWS::SQS::Queue")}
        self.code_paths: dict[Path, None] = {}
        self.layers: dict[Path, None] = {}
        self.routes: list[Route] = []
        self.mappings: list[QueueMapping] = []
        self.schedules: list[Schedule] = []
        functions = {logical_id: self.function(logical_id) for logical_id in self.of_type("AWS::Serverless::Function")}
        self.check_paths()
        keys = [(route.method, re.sub(r"\{[^}]*\}", "{}", route.path)) for route in self.routes]
        for route, key in zip(self.routes, keys, strict=True):
            if keys.count(key) > 1:
                raise TemplateError(f"the route {route.key} stands twice in the template")
        return Model(
            region=self.template.region,
            code_paths=(*self.code_paths, *self.layers),
            functions=functions,
            routes=tuple(self.routes),
            queue_mappings=tuple(self.mappings),
            schedules=tuple(self.schedules),
            tables={logical_id: self.table(logical_id) for logical_id in self.of_type("AWS::DynamoDB::Table")},
            queues=self.queues,
            secrets={logical_id: self.secret(logical_id) for logical_id in self.of_type("AWS::SecretsManager::Secret")},
        )

    def function(self, logical_id: str) -> Function:
        merged = _merge(self.globals.get("Function") or {}, self.properties(logical_id))
        check_properties(merged, FUNCTION_PROPERTIES, IGNORED_FUNCTION_PROPERTIES, logical_id)
        # Only what is used is resolved: policies may hold intrinsics of things that do not exist here.
        properties = {
            name: value if name == "Events" else self.resolve(value, f"{logical_id}.{name}")
            for name, value in merged.items()
            if name in FUNCTION_PROPERTIES
        }
        if not isinstance(properties.get("Handler"), str) or not isinstance(properties.get("CodeUri"), str):
            raise TemplateError(f"{logical_id} needs a Handler and a CodeUri which is a folder")
        self.code_paths[(self.template.folder / properties["CodeUri"]).resolve()] = None
        for layer in properties.get("Layers", []):
            self.layers[self.layer_path(layer, logical_id)] = None
        environment = properties.get("Environment", {}).get("Variables", {})
        function = Function(
            logical_id=logical_id,
            name=self.name(logical_id),
            handler=properties["Handler"],
            timeout_seconds=float(properties.get("Timeout", DEFAULT_TIMEOUT_SECONDS)),
            memory_mb=int(properties.get("MemorySize", DEFAULT_MEMORY_MB)),
            environment={name: _environment_text(value) for name, value in environment.items()},
            arn=self.attribute(logical_id, "Arn", logical_id),
        )
        for event_name, event in (merged.get("Events") or {}).items():
            where = f"{logical_id}.Events.{event_name}"
            self.event(function, event_name, event, where)
        return function

    def layer_path(self, layer: str, where: str) -> Path:
        for logical_id in self.of_type("AWS::Serverless::LayerVersion"):
            if self.attribute(logical_id, "Ref", where) == layer:
                content = self.resolve(self.properties(logical_id).get("ContentUri"), f"{logical_id}.ContentUri")
                return (self.template.folder / str(content)).resolve()
        raise TemplateError(f"{where}: the layer {layer} is not in this template, so its code is not here")

    def event(self, function: Function, name: str, event: Mapping[str, Any], where: str) -> None:
        kind, properties = event.get("Type"), event.get("Properties") or {}
        match kind:
            case "HttpApi":
                self.routes.append(self.route(function, properties, where))
            case "SQS":
                self.mappings.append(self.queue_mapping(function, self.resolve(properties, where), where))
            case "Schedule":
                self.schedules.append(self.schedule(function, name, self.resolve(properties, where), where))
            case _:
                raise TemplateError(f"{where} is an event of the type {kind}, which the local stack does not support")

    def route(self, function: Function, properties: Mapping[str, Any], where: str) -> Route:
        check_properties(properties, ROUTE_PROPERTIES, frozenset(), where)
        body, api = self.api(properties.get("ApiId"), where)
        own = {name: self.resolve(value, f"{where}.{name}") for name, value in properties.items() if name != "ApiId"}
        method, path = str(own.get("Method", "")).upper(), own.get("Path")
        if not isinstance(path, str) or not path.startswith("/") or not method:
            raise TemplateError(f"{where} needs a Method and a Path that begins with /; $default is not supported")
        if method in ("ANY", "X-AMAZON-APIGATEWAY-ANY-METHOD") or "+}" in path:
            raise TemplateError(f"{where}: the local stack does not support ANY methods and {{greedy+}} paths")
        operation = body["paths"].get(path, {}).get(method.lower())
        if operation is None or "security" not in operation:
            raise TemplateError(
                f"{where}: {api}'s DefinitionBody has no {method} {path} with its `security`, so it would be open to "
                "everybody; .venv/bin/python -m checks.api_body --write takes it over from docs/openapi.yaml"
            )
        authorizer, scopes = None, list[str]()
        match self.resolve(operation["security"], f"{api}: {method} {path}"):
            case []:
                pass
            case [dict(requirement)] if len(requirement) == 1:
                [(name, found)] = requirement.items()
                scopes = list(found)
                authorizer = self.authorizer(body, str(name), where)
            case other:
                raise TemplateError(f"{where}: its `security` is {other!r}, not [] or one authorizer with its scopes")
        return Route(
            function=function.logical_id,
            method=method,
            path=path,
            authorizer=authorizer,
            scopes=tuple(scopes),
            timeout_seconds=ROUTE_TIMEOUT_SECONDS,
        )

    def api(self, reference: Any, where: str) -> tuple[dict[str, Any], str]:
        """The `DefinitionBody` of the HTTP API that a route belongs to, and the API's logical id."""
        logical_id = reference.get("Ref") if isinstance(reference, dict) else None
        if logical_id not in self.of_type("AWS::Serverless::HttpApi"):
            raise TemplateError(f"{where}: ApiId is not a !Ref of an HTTP API of this template")
        properties = self.properties(str(logical_id))
        check_properties(properties, API_PROPERTIES, IGNORED_API_PROPERTIES, str(logical_id))
        body = properties.get("DefinitionBody")
        if not isinstance(body, dict) or not isinstance(body.get("paths"), dict):
            raise TemplateError(f"{logical_id} needs a DefinitionBody with paths")
        return body, str(logical_id)

    def check_paths(self) -> None:
        """A path of an API that no function's event names would have no integration."""
        here = {(route.path, route.method.lower()) for route in self.routes}
        for api in self.of_type("AWS::Serverless::HttpApi"):
            for path, item in self.api({"Ref": api}, api)[0]["paths"].items():
                for method in item:
                    if (path, method) not in here:
                        raise TemplateError(f"{api}: {method.upper()} {path} is in no function's Events")

    def authorizer(self, body: Mapping[str, Any], name: str, where: str) -> Authorizer:
        scheme = body.get("components", {}).get("securitySchemes", {}).get(name)
        if scheme is None:
            raise TemplateError(f"{where}: its API has no security scheme {name}")
        check_properties(scheme, frozenset({AUTHORIZER}), frozenset({"type", "flows"}), f"the security scheme {name}")
        definition = self.resolve(scheme.get(AUTHORIZER, {}), f"the authorizer {name}")
        used = frozenset({"type", "identitySource", "jwtConfiguration"})
        check_properties(definition, used, frozenset(), f"the authorizer {name}")
        if definition.get("type") != "jwt":
            raise TemplateError(f"the authorizer {name} is not of the type jwt")
        source = definition.get("identitySource")
        if source != JWT_IDENTITY_SOURCE:
            raise TemplateError(f"the authorizer {name} reads {source}; the local stack supports {JWT_IDENTITY_SOURCE}")
        jwt = definition.get("jwtConfiguration", {})
        audience = jwt.get("audience")
        if not isinstance(jwt.get("issuer"), str) or not isinstance(audience, list) or not audience:
            raise TemplateError(f"the authorizer {name} needs a jwtConfiguration with issuer and a list as audience")
        return Authorizer(name, jwt["issuer"], tuple(audience))

    def queue_mapping(self, function: Function, properties: Mapping[str, Any], where: str) -> QueueMapping:
        check_properties(properties, MAPPING_PROPERTIES, frozenset(), where)
        queue = next((queue for queue in self.queues.values() if queue.arn == properties.get("Queue")), None)
        if queue is None:
            raise TemplateError(f"{where}: Queue is {properties.get('Queue')!r}, no queue of this template")
        responses = properties.get("FunctionResponseTypes", [])
        if responses not in ([], ["ReportBatchItemFailures"]):
            raise TemplateError(f"{where}: FunctionResponseTypes is {responses!r}")
        scaling = properties.get("ScalingConfig", {})
        check_properties(scaling, frozenset({"MaximumConcurrency"}), frozenset(), f"{where}.ScalingConfig")
        concurrency = scaling.get("MaximumConcurrency")
        mapping = QueueMapping(
            function=function.logical_id,
            queue=queue.logical_id,
            batch_size=_whole(properties.get("BatchSize", DEFAULT_BATCH_SIZE), 1, LARGEST_BATCH, f"{where}.BatchSize"),
            report_batch_item_failures=bool(responses),
            maximum_concurrency=DEFAULT_CONCURRENCY
            if concurrency is None
            else _whole(concurrency, 2, 1000, f"{where}.ScalingConfig.MaximumConcurrency"),
        )
        visibility = int(queue.attributes.get("VisibilityTimeout", 30))
        if visibility < function.timeout_seconds:
            raise TemplateError(
                f"{where}: {queue.logical_id}'s visibility timeout ({visibility} s) is less than "
                f"{function.logical_id}'s timeout ({function.timeout_seconds:g} s); Lambda refuses such a mapping"
            )
        return mapping

    def schedule(self, function: Function, name: str, properties: Mapping[str, Any], where: str) -> Schedule:
        check_properties(properties, frozenset({"Schedule"}), frozenset(), where)
        return Schedule(function.logical_id, name, _rate(str(properties.get("Schedule")), where))

    def table(self, logical_id: str) -> Table:
        properties = self.properties(logical_id)
        check_properties(properties, TABLE_PROPERTIES, IGNORED_TABLE_PROPERTIES, logical_id)
        if "KeySchema" not in properties or "AttributeDefinitions" not in properties:
            raise TemplateError(f"{logical_id} needs KeySchema and AttributeDefinitions")
        definition = {
            name: self.resolve(properties[name], f"{logical_id}.{name}")
            for name in TABLE_PROPERTIES
            if name in properties
        }
        if definition.get("BillingMode") != "PAY_PER_REQUEST":
            raise TemplateError(f"{logical_id}: the local stack supports BillingMode PAY_PER_REQUEST only")
        return Table(logical_id, self.name(logical_id), definition)

    def queue(self, logical_id: str) -> Queue:
        properties = self.properties(logical_id)
        used = frozenset({"RedrivePolicy", *QUEUE_ATTRIBUTES})
        check_properties(properties, used, IGNORED_QUEUE_PROPERTIES, logical_id)
        resolved = {name: self.resolve(properties[name], f"{logical_id}.{name}") for name in used if name in properties}
        dead_letter_queue, max_receive_count = None, None
        if policy := resolved.get("RedrivePolicy"):
            where = f"{logical_id}.RedrivePolicy"
            check_properties(policy, frozenset({"deadLetterTargetArn", "maxReceiveCount"}), frozenset(), where)
            dead_letter_queue = next(
                (
                    other
                    for other in self.of_type("AWS::SQS::Queue")
                    if self.attribute(other, "Arn", where) == policy.get("deadLetterTargetArn")
                ),
                None,
            )
            if dead_letter_queue is None:
                raise TemplateError(f"{where}: deadLetterTargetArn is no queue of this template")
            max_receive_count = _whole(policy.get("maxReceiveCount"), 1, 1000, f"{where}.maxReceiveCount")
        return Queue(
            logical_id=logical_id,
            name=self.name(logical_id),
            url=self.attribute(logical_id, "Ref", logical_id),
            arn=self.attribute(logical_id, "Arn", logical_id),
            attributes={name: str(resolved[name]) for name in QUEUE_ATTRIBUTES if name in resolved},
            dead_letter_queue=dead_letter_queue,
            max_receive_count=max_receive_count,
        )

    def secret(self, logical_id: str) -> Secret:
        properties = self.properties(logical_id)
        check_properties(properties, SECRET_PROPERTIES, IGNORED_SECRET_PROPERTIES, logical_id)
        name = self.resolve(properties.get("Name"), f"{logical_id}.Name")
        generate = self.resolve(properties.get("GenerateSecretString"), f"{logical_id}.GenerateSecretString")
        if not isinstance(name, str) or not isinstance(generate, dict) or "GenerateStringKey" not in generate:
            raise TemplateError(f"{logical_id} needs a Name and a GenerateSecretString with GenerateStringKey")
        document = json.loads(generate.get("SecretStringTemplate", "{}"))
        value = json.dumps(document | {generate["GenerateStringKey"]: secrets.token_urlsafe(24)})
        return Secret(logical_id, name, value)


def _rate(expression: str, where: str) -> timedelta:
    rate = re.fullmatch(r"rate\((\d+) (minute|hour|day)(s?)\)", expression)
    if rate is None:
        raise TemplateError(
            f"{where}: the local stack does not support {expression!r}, only rates like rate(5 minutes)"
        )
    count = int(rate[1])
    if count < 1 or (count == 1) == bool(rate[3]):
        raise TemplateError(f"{where}: {expression!r} is no rate; EventBridge wants rate(1 minute) or rate(5 minutes)")
    return timedelta(seconds=count * RATE_UNIT_SECONDS[rate[2]])


def _merge(general: Any, own: Any) -> Any:
    """SAM's rule for Globals: mappings are merged, lists are joined, anything else is replaced."""
    if isinstance(general, dict) and isinstance(own, dict) and not _is_intrinsic(general) and not _is_intrinsic(own):
        return {
            key: _merge(general[key], own[key]) if key in own and key in general else own.get(key, general.get(key))
            for key in [*general, *(key for key in own if key not in general)]
        }
    if isinstance(general, list) and isinstance(own, list):
        return [*general, *own]
    return own


def _is_intrinsic(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and any(name == "Ref" or str(name).startswith("Fn::") for name in value)


def _whole(value: Any, least: int, most: int, where: str) -> int:
    try:
        number = int(str(value))
    except ValueError:
        raise TemplateError(f"{where} is {value!r}, not a whole number") from None
    if not least <= number <= most:
        raise TemplateError(f"{where} is {number}, not from {least} to {most}")
    return number


def _environment_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
