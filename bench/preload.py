"""Imported by the process from which the functions' processes are forked, to save each of them the imports."""

import boto3

import bench.poller  # noqa: F401
from devstack.runtime import load_runtime
from devstack.template import Template

# boto3's default session caches the service descriptions.
for _service in ("dynamodb", "sqs", "secretsmanager"):
    boto3.client(_service)
# The handlers' environment differs from this one only in addresses, which no import reads.
load_runtime(Template.load_local().model())
