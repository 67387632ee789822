"""The local stack's reader of template.yaml: what it makes of it, and what it refuses because nothing uses it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from devstack.cloudformation import SENDER_ID, Document, Resolver
from devstack.errors import TemplateError
from devstack.samconfig import load_samconfig
from devstack.template import Model, Template

SMALL = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  Issuer: {Type: String, Default: "https://issuer.example.com"}
  Receives: {Type: Number, Default: 5, MinValue: 1}
  Endpoint: {Type: String, Default: ""}
  Mode: {Type: String, Default: review, AllowedValues: [review, resubmit], ConstraintDescription: one of two}
Conditions:
  HasEndpoint: !Not [!Equals [!Ref Endpoint, ""]]
  Never: !Equals [!Ref Mode, neither]
Globals:
  Function:
    Timeout: 20
    CodeUri: functions/
    Environment:
      Variables:
        TABLE: !Ref Table
        QUEUE_URL: !Ref Queue
        ENDPOINT: !If [HasEndpoint, !Ref Endpoint, !Ref AWS::NoValue]
        NAME: !Sub "${AWS::StackName}/${Table}/${Queue.Arn}"
        MODE: !Ref Mode
Resources:
  Api:
    Type: AWS::Serverless::HttpApi
    Properties:
      DefinitionBody:
        components:
          securitySchemes:
            Jwt:
              type: oauth2
              flows: {}
              x-amazon-apigateway-authorizer:
                type: jwt
                identitySource: $request.header.Authorization
                jwtConfiguration: {issuer: !Ref Issuer, audience: [gateway]}
        paths:
          "/v1/{id}":
            get: {security: [{Jwt: [!If [Never, x, read]]}]}
          /open:
            post: {security: []}
  Function:
    Type: AWS::Serverless::Function
    Properties:
      Handler: one.handler.lambda_handler
      MemorySize: 512
      Role: !GetAtt Missing.Arn
      Environment: {Variables: {EXTRA: true}}
      Events:
        Read:
          Type: HttpApi
          Properties: {ApiId: !Ref Api, Method: get, Path: "/v1/{id}"}
        Open:
          Type: HttpApi
          Properties: {ApiId: !Ref Api, Method: POST, Path: /open}
        Batch:
          Type: SQS
          Properties:
            Queue: !GetAtt Queue.Arn
            BatchSize: 7
            FunctionResponseTypes: [ReportBatchItemFailures]
            ScalingConfig: {MaximumConcurrency: 4}
        Minute:
          Type: Schedule
          Properties: {Schedule: rate(1 minute)}
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}, {AttributeName: open, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      GlobalSecondaryIndexes:
        - IndexName: open
          KeySchema: [{AttributeName: open, KeyType: HASH}]
          Projection: {ProjectionType: ALL}
      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}
  Dead: {Type: AWS::SQS::Queue, Properties: {MessageRetentionPeriod: 1209600}}
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 120
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: !Ref Receives}
  Secret:
    Type: AWS::SecretsManager::Secret
    Properties:
      Name: gateway/m1
      GenerateSecretString: {SecretStringTemplate: '{"apiKey": "replace-me"}', GenerateStringKey: secretKey}
  Unwanted: {Type: AWS::SQS::Queue, Condition: Never}
  Log: {Type: AWS::Logs::LogGroup, Properties: {Anything: !Ref Nowhere}}
"""


def read(tmp_path: Path, text: str = SMALL, **options: Any) -> Model:
    path = tmp_path / "template.yaml"
    path.write_text(text)
    return Template.load(path, stack_name="shop", endpoint_url="http://aws.test", **options).model()


def changed(old: str, new: str) -> str:
    assert SMALL.count(old) == 1, old
    return SMALL.replace(old, new)


def test_environment_is_made_of_globals_intrinsics_and_own_values(tmp_path: Path) -> None:
    function = read(tmp_path).functions["Function"]
    assert function.environment == {
        "TABLE": "shop-Table",
        "QUEUE_URL": "http://aws.test/123456789012/shop-Queue",
        "NAME": "shop/shop-Table/arn:aws:sqs:ap-southeast-3:123456789012:shop-Queue",
        "MODE": "review",
        "EXTRA": "true",
    }
    assert (function.timeout_seconds, function.memory_mb) == (20, 512)
    assert (
        read(tmp_path, overrides={"Endpoint": "http://e"}).functions["Function"].environment["ENDPOINT"] == "http://e"
    )


def test_routes_have_their_scopes_and_their_authorizer(tmp_path: Path) -> None:
    guarded, open_route = read(tmp_path).routes
    assert (guarded.key, guarded.scopes) == ("GET /v1/{id}", ("read",))
    assert guarded.authorizer is not None
    assert (guarded.authorizer.issuer, guarded.authorizer.audience) == ("https://issuer.example.com", ("gateway",))
    assert (open_route.key, open_route.scopes, open_route.authorizer) == ("POST /open", (), None)


def test_queues_mappings_schedules_tables_and_secrets_are_read(tmp_path: Path) -> None:
    model = read(tmp_path, samconfig={"Receives": "9"})
    (mapping,) = model.queue_mappings
    assert (mapping.queue, mapping.batch_size, mapping.maximum_concurrency) == ("Queue", 7, 4)
    assert mapping.report_batch_item_failures
    assert [schedule.rate for schedule in model.schedules] == [timedelta(minutes=1)]
    assert set(model.queues) == {"Dead", "Queue"}, "a resource whose condition is false is not there"
    queue = model.queues["Queue"]
    assert (queue.dead_letter_queue, queue.max_receive_count) == ("Dead", 9)
    assert queue.attributes == {"VisibilityTimeout": "120"}
    assert model.tables["Table"].definition["GlobalSecondaryIndexes"][0]["IndexName"] == "open"
    assert model.secrets["Secret"].name == "gateway/m1"
    assert '"apiKey": "replace-me", "secretKey": "' in model.secrets["Secret"].value


def with_open_path(path: str, method: str = "post") -> str:
    """The small template with another path for its open route, in the event and in the body."""
    assert SMALL.count("Method: POST, Path: /open") == SMALL.count("          /open:\n            post:") == 1
    event = SMALL.replace("Method: POST, Path: /open", f'Method: {method}, Path: "{path}"')
    return event.replace("          /open:\n            post:", f'          "{path}":\n            {method}:')


def test_route_of_the_body_and_an_event_needs_no_other_change(tmp_path: Path) -> None:
    event = '        New: {Type: HttpApi, Properties: {ApiId: !Ref Api, Method: DELETE, Path: "/v1/{id}"}}\n'
    operation = "            delete: {security: [{Jwt: [write]}]}\n"
    more = SMALL.replace("        Batch:\n", event + "        Batch:\n").replace(
        "          /open:\n", operation + "          /open:\n"
    )
    assert ("DELETE /v1/{id}", ("write",)) in [(route.key, route.scopes) for route in read(tmp_path, more).routes]


def test_provisioned_names_replace_the_assumed_ones(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(SMALL)
    actual = {"Queue": {"Ref": "http://queue.test/refunds", "Arn": "arn:aws:sqs:elsewhere:1:refunds"}}
    model = Template.load(path).model(actual)
    assert model.functions["Function"].environment["QUEUE_URL"] == "http://queue.test/refunds"
    assert model.queue_mappings[0].queue == "Queue"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Type: Schedule\n", "Type: Kinesis\n", "Kinesis"),
        ("BatchSize: 7", "BatchSize: five", "BatchSize"),
        ("BatchSize: 7", "BatchSize: 70", "BatchSize is 70, not from 1 to 10"),
        (
            "BatchSize: 7",
            "BatchSize: 7\n            MaximumBatchingWindowInSeconds: 5",
            "MaximumBatchingWindowInSeconds",
        ),
        ("BatchSize: 7", "BatchSize: 7\n            Enabled: false", "Enabled"),
        ("BatchSize: 7", "BatchSize: 7\n            FilterCriteria: {}", "FilterCriteria"),
        ("MaximumConcurrency: 4", "MaximumConcurrency: 1", "MaximumConcurrency"),
        ("VisibilityTimeout: 120", "VisibilityTimeout: 10", "visibility timeout"),
        ("VisibilityTimeout: 120", "FifoQueue: true", "FifoQueue"),
        ("VisibilityTimeout: 120", "DelaySeconds: 5", "Queue has the property DelaySeconds"),
        ("VisibilityTimeout: 120", "QueueName: refunds", "Queue has the property QueueName"),
        ("BillingMode: PAY_PER_REQUEST", "BillingMode: PROVISIONED", "PAY_PER_REQUEST only"),
        ("BillingMode: PAY_PER_REQUEST", "BillingMode: PAY_PER_REQUEST\n      TableName: x", "property TableName"),
        ("Name: gateway/m1", "Name: gateway/m1\n      SecretString: x", "Secret has the property SecretString"),
        ("Name: gateway/m1", "Description: unnamed", "Secret needs a Name"),
        ("Method: get,", "Method: any,", "ANY methods"),
        ("Method: POST, Path: /open", 'Method: POST, Path: "/{all+}"', "greedy"),
        ("ApiId: !Ref Api, Method: POST", "Method: POST", "ApiId is not a !Ref of an HTTP API"),
        ("Method: POST, Path: /open", "Method: POST, Path: /open, TimeoutInMillis: 5000", "TimeoutInMillis"),
        ("Schedule: rate(1 minute)", "Schedule: 'cron(* * * * ? *)'", "does not support 'cron"),
        ("Schedule: rate(1 minute)", "Schedule: rate(1 minutes)", "is no rate"),
        ("Schedule: rate(1 minute)", "Schedule: rate(0 minutes)", "is no rate"),
        ("Schedule: rate(1 minute)", "Schedule: rate(1 week)", "does not support 'rate"),
        ("Schedule: rate(1 minute)", "Schedule: rate(1 minute), Input: x", "property Input"),
        ("Type: Schedule\n", "Type: ScheduleV2\n", "ScheduleV2"),
        ("Default: 5, MinValue: 1", "Default: 5, MinLength: 1", "the parameter Receives has the property MinLength"),
        ("Type: Number, Default: 5", "Type: CommaDelimitedList, Default: 5", "CommaDelimitedList"),
        ("!Not [", "!And [", "Fn::And"),
        ("!Equals [!Ref Mode, neither]", "!Or [!Equals [a, b], !Equals [a, a]]", "Fn::Or"),
        ("!Equals [!Ref Mode, neither]", "!Not [!Condition HasEndpoint]", "Condition of 'HasEndpoint'"),
        ("!Ref Mode\n", "!Select [0, [a, b]]\n", "Fn::Select"),
        ("!Ref Mode\n", "!FindInMap [a, b, c]\n", "Fn::FindInMap"),
        ("!Ref Mode\n", "!GetAtt [Queue, Arn]\n", "Fn::GetAtt"),
        ("!Ref Mode\n", "!Ref AWS::AccountId\n", "AWS::AccountId"),
        ("!Ref Mode\n", "!GetAtt Queue.QueueName\n", "QueueName of Queue"),
        ("MemorySize: 512", "MemorySize: 512\n      ImageUri: x", "ImageUri"),
        ("MemorySize: 512", "MemorySize: 512\n      Layers: [arn:aws:lambda:r:1:layer:x:1]", "layer"),
        ("Type: AWS::Logs::LogGroup", "Type: AWS::S3::Bucket", "AWS::S3::Bucket"),
        ("Queue: !GetAtt Queue.Arn", "Queue: arn:aws:sqs:r:1:other", "no queue of this template"),
        ("!Ref Table\n", "!Ref Tabel\n", "Tabel"),
        ("!Ref Table\n", "!ImportValue x\n", "Fn::ImportValue"),
        ("!Ref Table\n", '"{{resolve:ssm:x}}"\n', "dynamic references"),
        ("!Ref Table\n", "!Ref Log\n", "AWS::Logs::LogGroup"),
        ("!GetAtt Dead.Arn", "arn:aws:sqs:r:1:other", "deadLetterTargetArn"),
        ("post: {security: []}", "post: {}", "open to everybody"),
        ("post: {security: []}", "put: {security: []}", "open to everybody"),
        (
            "post: {security: []}",
            "post: {security: []}\n            put: {security: []}",
            "PUT /open is in no function",
        ),
        ("post: {security: []}", "post: {security: [{Other: [x]}]}", "no security scheme Other"),
        ("post: {security: []}", "post: {security: [{Jwt: [x]}, {Jwt: [y]}]}", "not \\[\\] or one authorizer"),
        ("post: {security: []}", "post: {security: []}\n            post: {}", "twice"),
        ("type: jwt", "type: request", "not of the type jwt"),
        ("type: jwt", "type: jwt\n                enableSimpleResponses: true", "enableSimpleResponses"),
        ("issuer: !Ref Issuer, audience", "audience", "issuer"),
        ("Method: POST, Path: /open", "Method: POST, Path: /open, Auth: {Authorizer: NONE}", "Auth"),
        ("$request.header.Authorization", "$request.querystring.token", "querystring"),
        ("  Function:\n    Timeout: 20", "  Api: {}\n  Function:\n    Timeout: 20", "Globals.Api"),
    ],
)
def test_unsupported_part_is_an_error_that_names_it(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        read(tmp_path, changed(old, new))


def test_same_path_with_another_method_is_another_route(tmp_path: Path) -> None:
    assert len(read(tmp_path, with_open_path("/v1/{other}")).routes) == 2


def test_routes_that_differ_only_in_a_variables_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="twice"):
        read(tmp_path, with_open_path("/v1/{other}", "get"))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"Mode": "guess"}, "one of two"), ({"Receives": "0"}, "range"), ({"Receives": "many"}, "not a number")],
)
def test_parameter_is_held_to_its_declaration(tmp_path: Path, parameters: dict[str, str], said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        read(tmp_path, overrides=parameters)


def test_samconfig_cannot_name_an_undeclared_parameter(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="Typo"):
        read(tmp_path, samconfig={"Typo": "x"})


def test_functions_with_different_values_of_a_variable_are_refused(tmp_path: Path) -> None:
    second = """
  Second:
    Type: AWS::Serverless::Function
    Properties: {Handler: two.handler.lambda_handler, Environment: {Variables: {EXTRA: false}}}
"""
    with pytest.raises(TemplateError, match="EXTRA"):
        read(tmp_path, SMALL + second).environment()


def test_samconfig_gives_parameters_as_a_text_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "samconfig.toml"
    path.write_text(
        "version = 0.1\n[local.global.parameters]\nregion = 'eu-west-1'\n"
        "parameter_overrides = \"A=1 B='two words'\"\n"
        "[local.deploy.parameters]\nstack_name = 'mine'\nparameter_overrides = ['A=9', 'D=x=y']\n"
        "[default.global.parameters]\nregion = 'us-east-1'\n"
    )
    config = load_samconfig(path)
    assert config.parameters == {"A": "9", "B": "two words", "D": "x=y"}
    assert (config.region, config.stack_name) == ("eu-west-1", "mine")
    assert load_samconfig(tmp_path / "none.toml").parameters == {}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"Typo": "1"}, "PARAMETERS gives Typo, which template.yaml does not declare"),
        ({"IndodanaUrl": "http://127.0.0.1:1"}, "PARAMETERS gives IndodanaUrl, which the local stack itself sets"),
        ({"ResolutionHoldSeconds": "90000"}, "ResolutionHoldSeconds is '90000', out of its range .must be 0 to 86400"),
        ({"ResolutionHoldSeconds": "soon"}, "ResolutionHoldSeconds is 'soon', not a number"),
        ({"MerchantIds": "m 1"}, "MerchantIds is 'm 1', which does not match"),
        ({"MerchantIds": ",".join(["m1"] * 1000)}, "too long"),
        ({"AmbiguousRefunds": "guess"}, "not one of review, resubmit"),
        ({"MerchantIds": ""}, "MerchantIds must list all merchants"),
        ({"CreateUserPool": "yes"}, "must be empty if CreateUserPool is yes"),
    ],
)
def test_parameter_that_cloudformation_would_refuse_is_refused(parameters: dict[str, str], said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        Template.load_local(issuer="http://127.0.0.1:8080", parameters=parameters).model()


def test_local_stack_takes_other_parameters_of_the_template() -> None:
    given = {
        "ResolutionHoldSeconds": "0",
        "MerchantId": "m2",
        "MerchantIds": "m2,m3",
        "ConflictKindsDone": "DuplicateError",
    }
    environment = Template.load_local(parameters=given).model().environment()
    assert {
        "RESOLUTION_HOLD_SECONDS": "0",
        "MERCHANT_ID": "m2",
        "MERCHANT_IDS": "m2,m3",
        "CONFLICT_KINDS_DONE": "DuplicateError",
        "MERCHANT_CLAIM": "merchant_id",
    }.items() <= environment.items()


def test_local_stack_lets_whoever_sends_refund_for_each_of_its_merchants() -> None:
    senders = [
        Template.load_local(parameters=parameters).model().environment()["QUEUE_SENDERS"]
        for parameters in (
            {},
            {"MerchantId": "m3", "MerchantIds": "m4"},
            {"MerchantIds": "", "MerchantClaim": ""},
            {"QueueSenders": ""},
        )
    ]
    assert senders == [
        f"{SENDER_ID}=m1,{SENDER_ID}=m2",
        f"{SENDER_ID}=m3,{SENDER_ID}=m4",
        f"{SENDER_ID}=m1",
        "",
    ]


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("!Split [',', !Ref AWS::Region]", ["ap-southeast-3"]),
        ("!Split [-, !Ref AWS::Region]", ["ap", "southeast", "3"]),
        ("!Join [':*,', !Split [-, !Ref AWS::Region]]", "ap:*,southeast:*,3"),
        ("!Join ['', [a, !Ref AWS::Region]]", "aap-southeast-3"),
    ],
)
def test_texts_are_split_and_joined(tmp_path: Path, written: str, resolved: object) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(f"Resources: {{}}\nOutputs: {{It: {{Value: {written}}}}}\n")
    document = Document.load(path)
    assert Resolver(document, {}).resolve(document.document["Outputs"]["It"]["Value"], "It") == resolved


def test_projects_own_template_is_supported() -> None:
    model = Template.load_local(
        issuer="http://127.0.0.1:8080", upstream_url="http://127.0.0.1:9", endpoint_url="http://127.0.0.1:5000"
    ).model()
    environment = model.environment()
    assert environment["INDODANA_URL"] == "http://127.0.0.1:9"
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:5000"
    assert (environment["MERCHANT_ID"], environment["MERCHANT_CLAIM"]) == ("m1", "merchant_id")
    assert {route.authorizer.issuer for route in model.routes if route.authorizer} == {"http://127.0.0.1:8080"}
