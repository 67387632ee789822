"""F, the floor of a cold start: the AWS SDK, its clients, a requests session and nothing else."""

import boto3
import requests

dynamodb = boto3.client("dynamodb")
secretsmanager = boto3.client("secretsmanager")
session = requests.Session()
