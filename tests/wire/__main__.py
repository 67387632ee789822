"""python -m tests.wire --seeds 1000     tells so many seeds, on every processor
python -m tests.wire --seed 17        tells one, call by call"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.wire.checks import faults, tallied
from tests.wire.run import everywhere, summary
from tests.wire.scene import Told, tell


def story(told: Told) -> str:
    lines = []
    for call in told.calls:
        lines.append(f"{call}{'' if call.to == 'server' else f' to a {call.to}'}")
        for one in told.arrivals_of(call):
            assert one.said is not None
            assert one.carried is not None
            did = "moved" if one.moved else "did nothing"
            lines.append(
                f"    connection {one.connection}, request {one.before + 1}, {one.at - call.started:.3f} s: {did}; "
                f"said {one.said.name} (HTTP {one.said.status}), {one.carried.clarity.name.lower()}: "
                f"{', '.join(one.carried.events)}{', after a stray answer' if one.stray else ''}"
            )
        lines.append(f"    {call.ended - call.started:.3f} s: {call.verdict.__name__} {call.answer}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wire", description=__doc__)
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    started = time.monotonic()
    if options.seed is not None:
        told = tell(options.seed)
        print(story(told))
        found, counts = faults(told), tallied(told)
    else:
        found, counts = everywhere(options.first, options.seeds)
    print(summary(counts))
    by_check = Counter(fault.check for fault in found)
    for check, count in by_check.most_common():
        print(f"\n{count} times broken: {check}")
        for fault in [fault for fault in found if fault.check == check][:5]:
            print(f"    seed {fault.seed}: {fault.text}")
    print(f"\n{len(found)} faults, {time.monotonic() - started:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
