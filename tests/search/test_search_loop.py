"""The loop itself: time, memory, exceptions, what can't be split, and the second process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from search_brute import Layers, bounds, decimal, model, random_layers, row, truth, write

from verinn.api import verify
from verinn.options import Options
from verinn.result import Result, Verdict
from verinn.search import bab
from verinn.search import run as running
from verinn.search.explore import Explored, Task
from verinn.search.explore import explore as real_explore
from verinn.search.store import Domains, Store, join

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second process, and batches that make the search take a few."""
    made = running.plan_of
    change = {"helper": False, "batch": 4}
    monkeypatch.setattr(running, "plan_of", lambda facts, options: replace(made(facts, options), **change))


def run(path: Path, layers: Layers, level: float, attack: bool = False, seconds: float | None = 30.0) -> Result:
    n = layers[0][0].shape[0]
    asserts = [*bounds([-1.0] * n, [1.0] * n), row(">=", level, (1, "Y_0"))]
    file = write(path / "p.vnnlib", n, 1, asserts)
    deadline = None if seconds is None else time.monotonic() + seconds
    return verify(model(layers), file, Options(attack=attack, deadline=deadline, device="cpu"))


def level_of(layers: Layers) -> float:
    """The least level in quarters that Z3 says is out of reach."""
    n = layers[0][0].shape[0]
    for quarter in range(-40, 400):
        asserts = [*bounds([-1.0] * n, [1.0] * n), row(">=", quarter / 4, (1, "Y_0"))]
        if truth(layers, asserts) == "unsat":
            return quarter / 4
    raise AssertionError("no such level")


@pytest.fixture(scope="module")
def instance() -> tuple[Layers, float]:
    layers = random_layers(np.random.default_rng(3), (3, 6, 5, 1))
    return layers, level_of(layers)


def test_the_instance_takes_several_batches(instance: tuple[Layers, float], tmp_path: Path) -> None:
    result = run(tmp_path, *instance)
    assert result.verdict is Verdict.UNSAT and result.statistics["domains"] > 8
    layers, level = instance
    assert run(tmp_path, layers, level - 0.25).verdict is Verdict.SAT


@pytest.mark.parametrize("attack", [True, False])
def test_a_deadline_in_the_past_is_a_timeout(instance: tuple[Layers, float], attack: bool, tmp_path: Path) -> None:
    result = run(tmp_path, *instance, attack=attack, seconds=-1.0)
    assert result.verdict is Verdict.TIMEOUT and result.witness is None and result.reason


def failing(errors: list[BaseException | None]) -> Callable[[Task, Domains], Explored]:
    """``explore`` that raises what the list says, call by call, and works after that."""

    def explore(task: Task, domains: Domains) -> Explored:
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        return real_explore(task, domains)

    return explore


@pytest.mark.parametrize(
    "lost",
    [MemoryError(), *map(RuntimeError, ("CUDA out of memory.", "can't allocate", "CUBLAS_STATUS_ALLOC_FAILED"))],
)
def test_short_memory_shrinks_batches(
    instance: tuple[Layers, float], lost: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layers, level = instance
    for verdict, at in ((Verdict.UNSAT, level), (Verdict.SAT, level - 0.25)):
        sizes: list[int] = []
        errors: list[BaseException | None] = [None, None, lost]
        broken = failing(errors)

        def explore(task: Task, domains: Domains, sizes: list[int] = sizes, broken: Any = broken) -> Explored:
            sizes.append(len(domains))
            return broken(task, domains)

        monkeypatch.setattr(Task, "explore", explore)
        assert run(tmp_path, layers, at).verdict is verdict
        if not errors and len(sizes) > 3 and sizes[2] > 1:
            assert max(sizes[3:]) <= max(1, sizes[2] // 2)


@pytest.mark.parametrize("error", [RuntimeError("anything"), ValueError(), IndexError(), AssertionError(), OSError()])
@pytest.mark.parametrize("call", [0, 2])
def test_any_other_exception_is_no_verdict(
    instance: tuple[Layers, float],
    error: Exception,
    call: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(Task, "explore", failing([*[None] * call, error]))
    with pytest.raises(type(error)):
        run(tmp_path, *instance)


def test_memory_too_short_for_one_domain_is_no_verdict(
    instance: tuple[Layers, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Task, "explore", failing([MemoryError()] * 1000))
    with pytest.raises(MemoryError):
        run(tmp_path, *instance)


@pytest.mark.parametrize("everything", [True, False])
def test_domains_that_cannot_be_split_make_it_unknown(
    instance: tuple[Layers, float], everything: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even a single stuck domain among many that were refuted."""
    calls = [0]

    def explore(task: Task, domains: Domains) -> Explored:
        calls[0] += 1
        found = real_explore(task, domains)
        if everything or calls[0] == 3:
            return Explored(None, 0, found.points[:0], found.cases[:0], stuck=1)
        return found

    monkeypatch.setattr(Task, "explore", explore)
    result = run(tmp_path, *instance)
    assert result.verdict is Verdict.UNKNOWN and "split" in result.reason


def test_a_point_that_bounds_cannot_settle_is_unknown(tmp_path: Path) -> None:
    """A box of one point on the boundary of a strict constraint."""
    layers = [(np.asarray([[1.0]]), np.zeros(1)), (np.asarray([[0.5]]), np.zeros(1))]
    asserts = [*bounds([0.5], [0.5]), row(">", 0.25, (1, "Y_0"))]
    file = write(tmp_path / "p.vnnlib", 1, 1, asserts)
    result = verify(model(layers), file, Options(attack=True, deadline=time.monotonic() + 5))
    assert result.verdict in (Verdict.UNKNOWN, Verdict.UNSAT)


def test_the_helper_changes_no_verdict(
    instance: tuple[Layers, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = running.plan_of
    monkeypatch.setattr(running, "plan_of", lambda facts, options: replace(made(facts, options), helper=True, crowd=1))
    monkeypatch.setattr(bab, "_PATIENCE", 0.0)
    layers, level = instance
    for verdict, at in ((Verdict.UNSAT, level), (Verdict.SAT, level - 0.25)):
        assert run(tmp_path, layers, at).verdict is verdict


@pytest.mark.parametrize("error", [RuntimeError("in the helper"), EOFError("it died"), BrokenPipeError(32, "it died")])
def test_a_search_goes_on_without_a_helper_that_fails(
    error: Exception, instance: tuple[Layers, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []

    def broken(self: object, domains: Domains) -> Explored:
        calls.append(len(domains))
        raise error

    made = running.plan_of
    monkeypatch.setattr(running, "plan_of", lambda facts, options: replace(made(facts, options), helper=True, crowd=1))
    monkeypatch.setattr(bab, "_PATIENCE", 0.0)
    monkeypatch.setattr(bab.Helper, "explore", broken)
    layers, level = instance
    for verdict, at in ((Verdict.UNSAT, level), (Verdict.SAT, level - 0.25)):
        assert run(tmp_path, layers, at).verdict is verdict
    assert calls, "the helper was never asked: the test shows nothing"


def test_a_store_loses_nothing() -> None:
    """Whatever is pushed comes out once, with its lists of splits padded by what says nothing."""
    rng = np.random.default_rng(0)
    store, number = Store(), 0

    def batch(size: int) -> Domains:
        nonlocal number
        mark = torch.arange(number, number + size, dtype=torch.float64)
        number += size
        splits = int(rng.integers(0, 4))
        return Domains(
            lower=mark.unsqueeze(1),
            upper=mark.unsqueeze(1),
            splits=torch.zeros((size, splits), dtype=torch.int64),
            rows=torch.ones((size, splits, 1), dtype=torch.float64),
            rows_c=torch.ones((size, splits), dtype=torch.float64),
            case=torch.zeros(size, dtype=torch.int64),
            open=torch.ones((size, 1), dtype=torch.bool),
            known={"z": (mark.unsqueeze(1), mark.unsqueeze(1))},
            share=torch.full((size,), 1.0, dtype=torch.float64),
            worst=mark,
        )

    seen: list[float] = []
    for _ in range(60):
        if rng.random() < 0.6 or not len(store):
            store.push(batch(int(rng.integers(0, 9))))
        elif len(store):
            part = store.pop(int(rng.integers(1, 12)))
            seen += part.lower.squeeze(1).tolist()
            assert torch.equal(part.known["z"][0], part.lower)
    while len(store):
        seen += store.pop(5).lower.squeeze(1).tolist()
    assert sorted(seen) == list(range(number))
    one, two = batch(2), batch(3)
    both = join([one, two])
    assert bool((both.splits[:, one.splits.shape[1] :][:2] == -1).all())
    assert bool((both.rows_c[:2, one.splits.shape[1] :] == -1).all())


def test_decimals_are_written_in_full() -> None:
    assert decimal(0.1) == "0.1000000000000000055511151231257827021181583404541015625"
    assert decimal(-3.0) == "-3" and decimal(-0.25) == "-0.25"


def test_domains_that_outgrow_memory_are_no_verdict(
    instance: tuple[Layers, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bab, "room", lambda: 1)
    result = run(tmp_path, *instance)
    assert result.verdict is Verdict.UNKNOWN and "memory" in result.reason
