"""Amounts in rupiah as in Indodana's API: decimal(16,2), not negative."""

import re
from decimal import Decimal

_LIMIT = Decimal(10) ** 14
_CENT = Decimal("0.01")
_PLAIN = re.compile(r"(?:0|[1-9][0-9]{0,13})(?:\.[0-9]{1,30})?")
_THOUSANDS = re.compile(r"[0-9]{1,3}\.[0-9]{3}")  # 25.000 is 25 thousand in Indonesia, and 25 elsewhere


def exact_amount(value: object) -> Decimal | None:
    """The amount in a number, or in a text with only one possible meaning; else None. 100000.00 becomes 100000."""
    if isinstance(value, str):
        if not _PLAIN.fullmatch(value) or _THOUSANDS.fullmatch(value):
            return None
        value = Decimal(value)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    amount = Decimal(value)
    # The range before the decimals: within it quantize() is exact.
    if not amount.is_finite() or not 0 <= amount < _LIMIT or amount != amount.quantize(_CENT):
        return None
    return Decimal(int(amount)) if amount == int(amount) else amount.quantize(_CENT)
