"""Small mistakes in the protocol, each of which must break an invariant: where, in which world, and which."""

from __future__ import annotations

from tests.simulation.catalogue import callers, leases, money, records
from tests.simulation.catalogue.mutant import Mutant

__all__ = ["BY_NAME", "MUTANTS", "Mutant"]

MUTANTS = money.MUTANTS + leases.MUTANTS + records.MUTANTS + callers.MUTANTS
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
