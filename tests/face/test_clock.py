"""Deadlines."""

import time

import pytest

from verinn.face import clock


def test_the_start_lies_in_the_past_and_not_far() -> None:
    now = time.monotonic()
    assert clock.process_start() <= now


def test_a_start_that_can_not_be_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a shell that waited for an hour and then called `exec verinn`."""
    monkeypatch.setattr(time, "clock_gettime", lambda _: 1e9)
    monkeypatch.setattr(time, "process_time", lambda: 0.25)
    now = time.monotonic()
    assert 0.0 <= clock.process_start() - (now - 0.25) < 1.0


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("builtins.open", missing)
    assert clock.process_start() <= time.monotonic()


@pytest.mark.parametrize("timeout", [1e-3, 1.0, 60.0, 1e6])
def test_the_deadlines_come_in_order_and_within_a_second(timeout: float) -> None:
    limits = clock.deadlines(timeout, 100.0)
    assert limits is not None
    assert 100.0 < limits.engine < limits.watch < 100.0 + timeout
    assert limits.engine > 100.0 + timeout - 1.0


def test_no_limit_no_deadline() -> None:
    assert clock.deadlines(None, 100.0) is None
