"""Imported once by the process that the functions' processes are forked from: what they would each do again."""

import boto3

import bench.poller  # noqa: F401
from devstack.runtime import load_runtime
from devstack.template import Template

# boto3's default session keeps the services' descriptions that it has read.
for _service in ("dynamodb", "sqs", "secretsmanager"):
    boto3.client(_service)
# The handlers, with an environment that differs from theirs in the addresses only, which no import reads.
load_runtime(Template.load_local().model())
