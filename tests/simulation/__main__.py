"""make simulate SEEDS=1000     runs 1000 seeds, on all processors
make simulate SEED=17        replays one seed step by step, and shortens it if it breaks an invariant"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation import random_runs
from tests.simulation.invariants import Violation

SHOWN = (
    "steps",
    "kills",
    "timeouts",
    "faults",
    "requests",
    "refunds",
    "movements",
    "forged",
    "SUCCEEDED",
    "FAILED",
    "UNKNOWN",
)


def many(seeds: int, first: int) -> int:
    started, done, broken, tallies = time.monotonic(), 0, [], []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for result in pool.map(random_runs.result_of, range(first, first + seeds), chunksize=10):
            done += 1
            if "violation" in result:
                broken.append(result)
                print(f"seed {result['seed']}: {result['violation']}", flush=True)
            else:
                tallies.append(result["counts"])
            if done % 1000 == 0:
                print(f"{done} seeds, {len(broken)} broken, {time.monotonic() - started:.0f} s", flush=True)
    total = random_runs.merged(tallies)
    print(f"{done} seeds from {first}, {len(broken)} broken, {time.monotonic() - started:.0f} s")
    print(", ".join(f"{total[name]:,} {name}" for name in SHOWN))
    if broken:
        print(f"To replay one: make simulate SEED={broken[0]['seed']}")
    return 1 if broken else 0


def one(seed: int) -> int:
    try:
        tally = random_runs.run_seed(seed, trace=True)
    except Violation as violation:
        print("\n".join(violation.tally.lines))
        print(f"\nseed {seed} breaks an invariant: {violation}\nShortening it …\n", flush=True)
        cut, _ = random_runs.shortened(seed, violation)
        try:
            random_runs.run_seed(seed, cut, trace=True)
        except Violation as shorter:
            lines = shorter.tally.lines
            print("\n".join(lines))
            print(f"\n{len(lines)} lines instead of {len(violation.tally.lines)}: {shorter}")
        return 1
    print("\n".join(tally.lines))
    print(f"\nseed {seed} breaks no invariant: " + ", ".join(f"{tally.counts[name]:,} {name}" for name in SHOWN))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    return one(options.seed) if options.seed is not None else many(options.seeds, options.first)


if __name__ == "__main__":
    sys.exit(main())
