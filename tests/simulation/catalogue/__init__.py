"""Small mistakes in the protocol, each with the invariant that it must break, and the world."""

from __future__ import annotations

from tests.simulation.catalogue import callers, leases, money, records, recovery, senders, waiting
from tests.simulation.catalogue.mutant import Mutant

__all__ = ["BY_NAME", "MUTANTS", "Mutant"]

MUTANTS = (
    *(*money.MUTANTS, *leases.MUTANTS, *records.MUTANTS),
    *(*callers.MUTANTS, *recovery.MUTANTS, *senders.MUTANTS, *waiting.MUTANTS),
)
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
