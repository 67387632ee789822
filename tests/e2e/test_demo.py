"""`make demo`: the story comes out right, in a stack of its own, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

from testkit.processes import Program

PROMISED_SECONDS = 60.0


def test_the_demo_ends_within_a_minute_and_leaves_nothing_behind(tmp_path: Path) -> None:
    local, temporary = tmp_path / "local", tmp_path / "temporary"
    temporary.mkdir()
    environment = {"LOCAL_DIR": str(local), "TMPDIR": str(temporary)}

    with Program(tmp_path, "devstack.demo", environment=environment) as demo:
        status = demo.wait(PROMISED_SECONDS)

    assert status == 0, demo.output
    assert "✗" not in demo.output
    assert "\033" not in demo.output  # colour is for terminals
    for row in ("STATUS_CHECKED", "REFUND_REFUSED", "REFUND_UNKNOWN", "REFUND_RESOLVED", "MESSAGE_DEAD_LETTERED"):
        assert row in demo.output
    assert not local.exists()
    assert list(temporary.iterdir()) == []
