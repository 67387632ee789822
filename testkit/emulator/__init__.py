"""DynamoDB, SQS and Secrets Manager in memory: what the gateway uses of boto3's clients, in microseconds a call.

Only what the gateway's code calls is here, by the same names and with the same answers and exceptions. Any other call,
argument or expression raises TypeError or NotImplementedError, so that no test depends on a guess. Where AWS's
documentation and moto differ, this follows AWS; tests/testkit/test_emulator_*.py compare it with moto and name those
differences.

A call is atomic as long as one thread at a time makes one, which the simulation's scheduler ensures. Items go in and
come out as they are, not copied: nobody may change them.
"""

from testkit.emulator.dynamodb import LAG_WRITES, Dynamo
from testkit.emulator.secrets_manager import Secrets
from testkit.emulator.sqs import Sqs

__all__ = ["LAG_WRITES", "Dynamo", "Secrets", "Sqs"]
