"""The proof that the proof bites: small mistakes in the protocol, each of which must break an invariant.

    python -m tests.simulation.mutants                     tells of each mutant, and prints the table of docs/mutants.md
    python -m tests.simulation.mutants --write             … and writes it there
    python -m tests.simulation.mutants --run NAME          tells of one mutant, in its world
    python -m tests.simulation.mutants --run NAME WORLD …  … in these worlds, or in `all`

Each of them (catalogue/) is made while the code is loaded (mutating.py), in an interpreter of its own. It
tells every schedule of its world, without accidents first, then with a kill, then with a fault, then with both, then
with two faults, until an invariant breaks. `unmutated` is the code as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future
from typing import Any

from tests.simulation import mutating
from tests.simulation.catalogue import BY_NAME, MUTANTS

TABLE = mutating.ROOT / "docs" / "mutants.md"
UNMUTATED = "unmutated"
BUDGETS = ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2))  # kills and faults
# By how many budgets it took.
ACCIDENTS = {1: "no accident", 2: "a kill", 3: "a fault", 4: "a kill and a fault", 5: "two faults"}
AT_A_TIME = 2

type Running = Future[dict[str, Any]]


# ---- one mutant, in this process


def run(name: str, worlds: Mapping[str, int]) -> dict[str, Any]:
    """Tells of each world with so many of the budgets. Says what broke first, if anything did.

    Must be called before the gateway's code is imported.
    """
    mutating.apply(() if name == UNMUTATED else BY_NAME[name].edits)
    os.environ |= {"POWERTOOLS_SERVICE_NAME": "qris-gateway", "POWERTOOLS_METRICS_NAMESPACE": "QrisGateway"}

    from tests.simulation import simulated
    from tests.simulation.explore import Story, explore
    from tests.simulation.invariants import Violation
    from tests.simulation.mutant_worlds import WORLDS, widened

    schedules = 0
    worlds = dict.fromkeys(WORLDS, worlds["all"]) if "all" in worlds else worlds
    with simulated.installed():
        for reach, (kills, faults) in enumerate(BUDGETS, 1):
            for world in (world for world, budgets in worlds.items() if reach <= budgets):
                try:
                    schedules += explore(widened(WORLDS[world], kills, faults)).schedules
                except (Story, Violation) as story:
                    broken = story if isinstance(story, Violation) else story.__cause__
                    assert isinstance(broken, Violation)
                    # Without steps where the world breaks already while it is prepared.
                    told = str(story).splitlines()[1:] if isinstance(story, Story) else []
                    lines = [line.split(".", 1)[1].strip() for line in told]
                    return {
                        "mutant": name,
                        "invariant": broken.invariant,
                        "world": world,
                        "budgets": reach,
                        "steps": len([line for line in lines if line != "the end"]),
                        "story": lines,
                    }
    return {"mutant": name, "schedules": schedules}


# ---- all of them, each in a process of its own


def begin(pool: Executor, name: str) -> Running:
    return pool.submit(run, name, {BY_NAME[name].world: len(BUDGETS)})


def control(pool: Executor, results: Iterable[Mapping[str, Any]]) -> Running:
    """All that was told of the mutants until they died, told of the code as it is."""
    worlds: dict[str, int] = {}
    for result in results:
        worlds[result["world"]] = max(worlds.get(result["world"], 0), result["budgets"])
    return pool.submit(run, UNMUTATED, worlds)


def table(results: Mapping[str, Mapping[str, Any]], schedules: int) -> str:
    """`schedules`: that the unmutated code survived."""
    lines = [
        "# Mutants",
        "",
        "Small mistakes in the protocol, and the invariant that breaks first when every schedule of a small world is",
        "told: without accidents, then with a kill, a fault, both, two faults. Each mistake is made in a process of",
        "its own, while the code is loaded. A step is one choice of the scheduler. To be told a story:",
        "`python -m tests.simulation.mutants --run NAME`.",
        "",
        f"All {len(MUTANTS)} die. The code as it is survives the same worlds, {schedules:,} schedules. Made by",
        "`python -m tests.simulation.mutants --write`.",
        "",
        "| mutant | what goes wrong | invariant that breaks | world | steps |",
        "|---|---|---|---|---|",
    ]
    for mutant in MUTANTS:
        result = results[mutant.name]
        world = result["world"].replace("_", " ")
        lines.append(
            f"| `{mutant.name}` | {mutant.story} | {result['invariant']} | {world}, {ACCIDENTS[result['budgets']]} "
            f"| {result['steps']} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", metavar="NAME")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help="with =2, only the first two budgets")
    options = parser.parse_args()
    if options.run:
        wanted = [name.partition("=") for name in options.worlds] or [(BY_NAME[options.run].world, "", "")]
        worlds = {world: int(budgets or len(BUDGETS)) for world, _, budgets in wanted}
        print(json.dumps(run(options.run, worlds), indent=2))
        return 0
    with mutating.interpreters(AT_A_TIME) as pool:
        running = {name: begin(pool, name) for name in BY_NAME}
        results = {name: told.result() for name, told in running.items()}
        survivors = [result for result in results.values() if "invariant" not in result]
        unmutated = control(pool, (result for result in results.values() if "invariant" in result)).result()
    if survivors or "schedules" not in unmutated:
        print(json.dumps([*survivors, unmutated], indent=2), file=sys.stderr)
        return 1
    print(text := table(results, unmutated["schedules"]), end="")
    if options.write:
        TABLE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
