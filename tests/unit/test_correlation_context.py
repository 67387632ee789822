"""The correlation id of what is being done, and of nothing after it."""

from __future__ import annotations

import pytest

from gateway.core.correlation import correlated, current


def test_an_id_holds_inside_its_block_and_no_longer() -> None:
    assert current() is None
    with correlated("a"):
        assert current() == "a"
        with correlated("b"):
            assert current() == "b"
        with correlated(None):
            assert current() == "a"
        assert current() == "a"
    assert current() is None


def test_an_id_ends_with_a_block_that_fails() -> None:
    with pytest.raises(ZeroDivisionError), correlated("a"):
        raise ZeroDivisionError
    assert current() is None
