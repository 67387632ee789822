"""Prints samples of the time, in microseconds, that the gateway's signing layer takes for one request."""

import json
import time

from indodana import Credentials, authorization

SAMPLES = 25
CALLS = 2_000

credentials = Credentials("merchant-key", "merchant-secret")
samples = []
for _ in range(SAMPLES + 1):
    began = time.perf_counter()
    for nonce in range(1_795_331_100, 1_795_331_100 + CALLS):
        authorization(credentials, str(nonce))
    samples.append((time.perf_counter() - began) / CALLS * 1e6)
print(json.dumps(samples[1:]))
