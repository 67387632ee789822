"""python -m tests.wire --seeds 1000     runs 1000 seeds, on all processors
python -m tests.wire --seed 17        replays one seed, call by call"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.wire.checks import tallied, violations
from tests.wire.run import run_in_processes, summary
from tests.wire.scene import Run, run_seed


def trace(run: Run) -> str:
    lines = []
    for call in run.calls:
        lines.append(f"{call}{'' if call.to == 'server' else f' to a {call.to}'}")
        for one in run.arrivals_of(call):
            assert one.answer_sent is not None
            assert one.delivery is not None
            effect = "money moved" if one.moved else "nothing moved"
            lines.append(
                f"    connection {one.connection}, request {one.before + 1}, {one.at - call.started:.3f} s: {effect}; "
                f"{one.answer_sent.name} (HTTP {one.answer_sent.status}), {one.delivery.clarity.name.lower()}: "
                f"{', '.join(one.delivery.events)}{', after a stray answer' if one.stray else ''}"
            )
        lines.append(f"    {call.ended - call.started:.3f} s: {call.outcome.__name__} {call.answer}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wire", description=__doc__)
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    started = time.monotonic()
    if options.seed is not None:
        run = run_seed(options.seed)
        print(trace(run))
        found, counts = violations(run), tallied(run)
    else:
        found, counts = run_in_processes(options.first, options.seeds)
    print(summary(counts))
    by_check = Counter(violation.check for violation in found)
    for check, count in by_check.most_common():
        print(f"\n{count} violations: {check}")
        for violation in [violation for violation in found if violation.check == check][:5]:
            print(f"    seed {violation.seed}: {violation.text}")
    print(f"\n{len(found)} violations, {time.monotonic() - started:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
