"""Writes docs/mutation.md: what became of the mutants, module by module, and why survivors may live.

survivors.toml explains survivors, and is written by hand. A survivor is named there as the runner prints it.
"""

from __future__ import annotations

import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutation.mutant import ROOT, Mutant

EXPLAINED = Path(__file__).with_name("survivors.toml")
REPORT = ROOT / "docs" / "mutation.md"
# Each survivor of these is explained; of all others together, so many are killed.
WITHOUT_EXCEPTION = (
    "gateway.core.protocol",
    "gateway.core.outcome",
    "gateway.core.ledger",
    "gateway.core.transitions",
)
LEAST_KILLED = 0.9
ALIVE = ("survived", "not reached")


@dataclass(frozen=True)
class Explanation:
    why: str
    mutants: tuple[str, ...]


def explanations() -> list[Explanation]:
    found = tomllib.loads(EXPLAINED.read_text())
    return [Explanation(entry["why"].strip(), tuple(entry["mutants"])) for entry in found.get("explained", [])]


def problems(mutants: Sequence[Mutant], results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What stands between these results and the promise of docs/mutation.md."""
    explained = {label for explanation in explanations() for label in explanation.mutants}
    found = []
    others: Counter[str] = Counter()
    for module, of_module in _by_module(mutants).items():
        statuses = _statuses(of_module, results)
        if statuses["not run"]:
            found.append(f"{module}: {statuses['not run']} mutants were not run")
        if module in WITHOUT_EXCEPTION:
            alive = [mutant.label for mutant in of_module if _status(mutant, results) in ALIVE]
            found += [
                f"not killed, and not explained in survivors.toml: {label}" for label in alive if label not in explained
            ]
        else:
            others += statuses
    killed_of_others = others["killed"] + others["timed out"]
    if killed_of_others < LEAST_KILLED * others.total():
        found.append(f"only {killed_of_others} of {others.total()} mutants of the other modules were killed")
    labels = {mutant.label for mutant in mutants}
    killed = {mutant.label for mutant in mutants if _status(mutant, results) in ("killed", "timed out")}
    found += [f"survivors.toml explains what is killed: {label}" for label in sorted(explained & killed)]
    found += [f"survivors.toml explains what does not exist: {label}" for label in sorted(explained - labels)]
    return found


def write(mutants: Sequence[Mutant], results: Mapping[str, Mapping[str, Any]]) -> None:
    lines = [
        "# Mutation testing",
        "",
        "`make mutate` lets mutmut's operators make small mistakes in the money path and in the signing layer, and",
        "runs the tests that reach each of them until one fails. docs/mutants.md is about others: mistakes picked by",
        "hand, which the simulation must find. This page is written by `make mutate`, which resumes with those not run",
        "yet. It shows the code as it was at the last run; what has changed since is mutated by the next one.",
        "",
        "| module | mutants | not run yet | killed | of those by a time-out | alive | killed of those run, % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    total: Counter[str] = Counter()
    for module, of_module in _by_module(mutants).items():
        statuses = _statuses(of_module, results)
        total += statuses
        lines.append(_row(f"`{module}`", statuses))
    lines += [_row("all", total), "", "## Alive, and why", ""]
    alive = {mutant.label for mutant in mutants if _status(mutant, results) in ALIVE}
    for explanation in explanations():
        if still := [label for label in explanation.mutants if label in alive]:
            alive -= set(still)
            lines += [explanation.why, "", *(_item(label) for label in still), ""]
    if alive:
        lines += ["## Alive, and not explained", "", *(_item(label) for label in sorted(alive)), ""]
    REPORT.write_text("\n".join(lines).rstrip() + "\n")


def _row(name: str, statuses: Mapping[str, int]) -> str:
    made, open_ = sum(statuses.values()), statuses.get("not run", 0)
    alive = sum(statuses.get(status, 0) for status in ALIVE)
    killed = statuses.get("killed", 0) + statuses.get("timed out", 0)
    share = f"{100 * killed / (made - open_):.1f}" if made > open_ else "–"
    return f"| {name} | {made} | {open_} | {killed} | {statuses.get('timed out', 0)} | {alive} | {share} |"


def _item(label: str) -> str:
    where, change = label.split(": ", 1)
    fence = "``" if "`" in change else "`"
    return f"- `{where}`: {fence}{change}{fence}"


def _by_module(mutants: Iterable[Mutant]) -> dict[str, list[Mutant]]:
    found: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        found[mutant.module].append(mutant)
    return dict(sorted(found.items()))


def _statuses(mutants: Iterable[Mutant], results: Mapping[str, Mapping[str, Any]]) -> Counter[str]:
    return Counter(_status(mutant, results) for mutant in mutants)


def _status(mutant: Mutant, results: Mapping[str, Mapping[str, Any]]) -> str:
    return str(results[mutant.id]["status"]) if mutant.id in results else "not run"
