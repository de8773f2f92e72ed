"""The search over ReLU phases loses no violation: not by a split, a bound, a renewal, an error or a second process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phases_run import Patch, Use, check, decide, run, use
from search_brute import (
    SHAPES,
    Layers,
    Row,
    Tree,
    bounds,
    evaluate,
    model,
    random_asserts,
    random_layers,
    row,
    truth,
)
from torch import Tensor

from verinn.result import Verdict
from verinn.search import bab, phased
from verinn.search import run as running
from verinn.search.bab import Outcome
from verinn.search.explore import Explored
from verinn.search.neurons import PhaseTask, split
from verinn.search.phases import Phases
from verinn.search.store import Store

torch.set_num_threads(1)

assert use  # in every test
real_explore = PhaseTask.explore
real_renewed = PhaseTask.renewed


def tasks_of(layers: Layers, asserts: list[Row | Tree], path: Path, monkeypatch: Patch) -> list[PhaseTask]:
    """The searches that a property asks for, not begun."""
    found: list[PhaseTask] = []

    def caught(task: PhaseTask, *rest: Any) -> Outcome:
        found.append(task)
        return Outcome(Verdict.UNKNOWN, reason="not begun")

    with monkeypatch.context() as patch:
        patch.setattr(phased, "search", caught)
        run(layers, asserts, path)
    return found


def instances(
    shape: str, count: int, sizes: tuple[int, ...] = (2, 6, 5, 2)
) -> Iterator[tuple[Layers, list[Row | Tree]]]:
    for seed in range(count):
        rng = np.random.default_rng([seed, SHAPES.index(shape), 5])
        layers = random_layers(rng, sizes)
        yield layers, random_asserts(rng, shape, layers, False)


def violating(task: PhaseTask, count: int = 4000, seed: int = 0) -> Tensor:
    """Points of the task's box that fulfil its goals, (P, n), exactly: weights are eighths, points are dyadic,
    and float64 evaluates such networks without rounding."""
    rng = np.random.default_rng(seed)
    low, high = task.lower.numpy(), task.upper.numpy()
    steps = rng.integers(0, 257, (count, low.shape[1])) / 256
    corners = rng.integers(0, 2, (64, low.shape[1]))
    x = torch.from_numpy(low + (high - low) * np.concatenate([steps, corners]))
    f = task.referee.flat(x) @ task.goals.y.T - task.goals.rhs
    if task.goals.x is not None:
        f = f + x @ task.goals.x.T
    strict = torch.zeros(f.shape[1], dtype=torch.bool)
    strict[: len(task.rows)] = task.spec.strict[task.case][task.rows]  # the rest are constraints on the inputs
    return x[torch.where(strict, f < 0, f <= 0).all(1)]


def inputs_of_relus(task: PhaseTask, x: Tensor) -> Tensor:
    """(P, U): the inputs of the unstable ReLUs at points, exact as above."""
    (value,) = task.referee.graph.inputs
    return task.columns.gather(task.referee.run([x.reshape(-1, *value.shape)]))


def inside(z: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """bool (P,): points whose ReLUs' inputs (P, U) lie in one of the intervals (D, U)."""
    z = z.unsqueeze(1)
    return ((z >= lower.double()) & (z <= upper.double())).all(2).any(1)


# --- what is learned of all domains at once ---


def renew(task: PhaseTask, part: Phases, assistant: Any = None) -> tuple[PhaseTask, Phases] | None:
    """A renewal as the loop asks for it; None: nothing violates in any of the domains."""
    return task.renewed(part, 0, assistant)


def assistants(task: PhaseTask) -> list[Any]:
    """Nobody, a second process that does as it is told, and one that fails."""

    def well(function: Callable[..., Any], *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        with torch.no_grad():
            done.set_result(function(task, *given))
        return done

    def ill(function: Callable[..., Any], *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_exception(EOFError("it died"))
        return done

    return [None, well, ill]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", ["one", "conjunction", "disjunction", "strict", "mixed", "region"])
def test_renewals_lose_no_violation(shape: str, dtype: str, use: Use, monkeypatch: Patch, tmp_path: Path) -> None:
    use(dtype=dtype)
    seen = narrowed = 0
    for layers, asserts in instances(shape, 5, (2, 12, 10, 2)):
        for task in tasks_of(layers, asserts, tmp_path, monkeypatch):
            x = violating(task)
            z = inputs_of_relus(task, x)
            assert bool(inside(z, task.low, task.high).all())
            for assistant in assistants(task):
                now, part = task, task.root()
                for _ in range(2):
                    renewed = renew(now, part, assistant)
                    if renewed is None:
                        assert not len(x)
                        break
                    now, narrow = renewed
                    assert bool(inside(z, narrow.lower, narrow.upper).all())
                    assert bool((narrow.lower >= part.lower).all() and (narrow.upper <= part.upper).all())
                    narrowed += int((narrow.lower > part.lower).sum())
                    part = narrow
            seen += len(x)
    assert seen > 50 and narrowed > 10


def test_a_renewal_may_settle_it(monkeypatch: Patch, tmp_path: Path) -> None:
    """``None`` comes only where Z3 finds no violation, and it does come."""
    settled = 0
    for seed in range(3):
        layers = random_layers(np.random.default_rng([seed, 4]), (2, 6, 4, 1))
        grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 33)] * 2), -1).reshape(-1, 2)
        level = np.ceil(evaluate(layers, grid).max() * 8) / 8
        tasks: list[PhaseTask] | None = None
        while tasks is None or tasks:  # up to where one climb settles it
            asserts: list[Row | Tree] = [*bounds([-1.0] * 2, [1.0] * 2), row(">=", level, (1, "Y_0"))]
            tasks = tasks_of(layers, asserts, tmp_path, monkeypatch)
            for task in tasks:
                renewed: tuple[PhaseTask, Phases] | None = (task, task.root())
                for _ in range(6):
                    renewed = None if renewed is None else renew(*renewed)
                if renewed is None:
                    settled += 1
                    assert truth(layers, asserts) == "unsat"
            level += 1 / 8
    assert settled


# --- splits and steps ---


def domains_of(rng: np.random.Generator, size: int, neurons: int, dtype: torch.dtype = torch.float32) -> Phases:
    low, high = -rng.random((size, neurons)) * 2 + 0.2, rng.random((size, neurons)) * 2 - 0.2
    splits, goals = int(rng.integers(0, 4)), 2

    def some(*shape: int) -> Tensor:
        return torch.from_numpy(rng.random(shape)).to(dtype)

    return Phases(
        torch.from_numpy(np.minimum(low, high)).to(dtype),
        torch.from_numpy(np.maximum(low, high)).to(dtype),
        torch.from_numpy(rng.integers(-1, neurons, (size, splits))),
        torch.from_numpy(rng.integers(-1, 2, (size, splits))).to(dtype),
        some(size, neurons),
        some(size, splits),
        some(size, goals),
        torch.from_numpy(rng.random(size)),
        torch.from_numpy(-rng.random(size)),
    )


def test_both_phases_of_a_split_are_the_whole() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        parent = domains_of(rng, 6, 5)
        column = torch.tensor(
            [int(rng.choice(np.flatnonzero(free))) if free.any() else -1 for free in parent.free.numpy()]
        )
        children = split(parent, column)
        assert len(children) == 12
        for b in range(6):
            low, high = parent.lower[b].double(), parent.upper[b].double()
            z = low + (high - low) * torch.from_numpy(rng.integers(0, 5, (200, 5)) / 4)
            if column[b] >= 0:
                z[:20, column[b]] = 0.0
            pair = children.select(torch.tensor([b, b + 6]))
            assert bool(inside(z, pair.lower, pair.upper).all())
            assert bool((pair.lower >= parent.lower[b]).all() and (pair.upper <= parent.upper[b]).all())
            if column[b] < 0:
                continue
            assert bool((pair.upper[0, column[b]] == 0) and (pair.lower[1, column[b]] == 0))
            assert pair.splits[:, -1].tolist() == [int(column[b])] * 2 and pair.phase[:, -1].tolist() == [1.0, -1.0]
            assert float(pair.share.sum()) == pytest.approx(float(parent.share[b]))
            assert bool((pair.beta[:, -1] == 0).all())


@pytest.mark.parametrize("often", [False, True])
@pytest.mark.parametrize("shape", ["one", "conjunction", "strict", "mixed", "region"])
def test_no_step_loses_a_violation(shape: str, often: bool, monkeypatch: Patch, tmp_path: Path) -> None:
    """Every violating point stays in some domain that is open, however far the search goes; what is closed and
    what is left add up to the whole."""
    followed = steps = 0
    for layers, asserts in instances(shape, 6):
        for task in tasks_of(layers, asserts, tmp_path, monkeypatch):
            x = violating(task, 500)
            z = inputs_of_relus(task, x)
            store, stuck = Store(), 0
            store.push(task.root())
            for step in range(12):
                if not len(store):
                    break
                part = store.pop(4)
                if often and step % 2 == 1:
                    renewed = renew(task, part)
                    if renewed is None:
                        assert not bool(inside(z, part.lower, part.upper).any())
                        continue
                    task, part = renewed
                with torch.no_grad():
                    explored = task.explore(part)
                stuck += explored.stuck
                if explored.children is not None:
                    store.push(explored.children)
                    check_splits(explored.children)
                steps += 1
                if len(store):
                    every = store.pop(10**6)
                    store.push(every)
                    assert stuck or bool(inside(z, every.lower, every.upper).all())
                else:
                    assert stuck or not len(x)
                assert store.share() <= 1 + 1e-9
            followed += len(x)
    assert followed > 100 and steps > 10


def check_splits(domains: Phases) -> None:
    """Every phase that multipliers lean on is one that the intervals know."""
    for k in range(domains.splits.shape[1]):
        column, phase = domains.splits[:, k], domains.phase[:, k]
        low, high = (end.gather(1, column.clamp(min=0).unsqueeze(1))[:, 0] for end in (domains.lower, domains.upper))
        assert bool((((column < 0) & (phase == 0)) | (column >= 0)).all())
        assert bool(((phase <= 0) | (high <= 0)).all() and ((phase >= 0) | (low >= 0)).all())


def test_the_whole_search_takes_several_levels_at_once(monkeypatch: Patch, tmp_path: Path) -> None:
    """One open domain of several neurons has children of several splits, and none of them twice."""
    deep = 0
    for layers, asserts in instances("one", 6, (3, 8, 6, 2)):
        for task in tasks_of(layers, asserts, tmp_path, monkeypatch):
            task = replace(task, width=64)
            with torch.no_grad():
                children = task.explore(task.root()).children
            if children is None:
                continue
            deep += children.splits.shape[1] > 1
            kinds = {tuple(pair) for pair in torch.cat([children.lower, children.upper], 1).tolist()}
            assert len(kinds) == len(children)
            assert float(children.share.sum()) == pytest.approx(1.0)
    assert deep


def test_a_store_loses_no_phases() -> None:
    rng = np.random.default_rng(1)
    store, seen, pushed = Store(), 0, 0
    for _ in range(40):
        if rng.random() < 0.6 or not len(store):
            batch = domains_of(rng, int(rng.integers(0, 7)), 4)
            pushed += len(batch)
            store.push(batch)
        else:
            part = store.pop(int(rng.integers(1, 9)))
            seen += len(part)
            assert len({len(value) for value in vars(part).values()}) == 1
    assert seen + len(store) == pushed
    short, long = domains_of(rng, 2, 4), domains_of(rng, 3, 4)
    both = Phases.joined(
        [replace(short, splits=short.splits[:, :0], phase=short.phase[:, :0], beta=short.beta[:, :0]), long]
    )
    assert bool((both.splits[:2] == -1).all() and (both.phase[:2] == 0).all() and (both.beta[:2] == 0).all())
    assert torch.equal(both.select(torch.tensor([2, 3, 4])).splits, long.splits)


# --- verdicts ---


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("shape", ["conjunction", "disjunction", "cases", "region", "mixed"])
def test_verdicts_are_true_however_often_it_renews(
    shape: str, together: bool, use: Use, monkeypatch: Patch, tmp_path: Path
) -> None:
    """A renewal before every batch, with and without a second process that is busy meanwhile."""
    use(helper=together, crowd=1)
    monkeypatch.setattr(bab, "_PATIENCE", 0.0)
    monkeypatch.setattr(PhaseTask, "due", property(lambda task: 0.0 if task.renewals < 4 else 1e9))
    renewals: list[bool] = []

    def renewed(task: PhaseTask, *given: Any) -> Any:
        found = real_renewed(task, *given)
        renewals.append(found is None)
        return found

    monkeypatch.setattr(PhaseTask, "renewed", renewed)
    decided = [check(run(layers, asserts, tmp_path), layers, asserts) for layers, asserts in instances(shape, 6)]
    assert sum(decided) >= 4 and renewals


def margin_instance() -> tuple[Layers, float]:
    """A network and the least level in quarters that Z3 says Y_0 does not reach."""
    layers = random_layers(np.random.default_rng(3), (3, 6, 5, 1))
    for quarter in range(-40, 400):
        if truth(layers, asked(quarter / 4)) == "unsat":
            return layers, quarter / 4
    raise AssertionError("no such level")


def asked(level: float) -> list[Row | Tree]:
    return [*bounds([-1.0] * 3, [1.0] * 3), row(">=", level, (1, "Y_0"))]


@pytest.fixture(scope="module")
def instance() -> tuple[Layers, float]:
    return margin_instance()


def test_the_instance_takes_several_batches(instance: tuple[Layers, float], tmp_path: Path) -> None:
    layers, level = instance
    result = decide(model(layers), (3, 1), asked(level), tmp_path)
    assert result.verdict is Verdict.UNSAT and result.statistics["domains"] > 4
    assert run(layers, asked(level - 0.25), tmp_path) is Verdict.SAT


def test_a_deadline_in_the_past_is_a_timeout(instance: tuple[Layers, float], tmp_path: Path) -> None:
    assert run(instance[0], asked(instance[1]), tmp_path, seconds=-1.0) is Verdict.TIMEOUT


def test_time_that_runs_out_anywhere_is_a_timeout(
    instance: tuple[Layers, float], monkeypatch: Patch, tmp_path: Path
) -> None:
    """The clock is asked so many times, then time is up; wherever that is, nothing is proved by it."""
    layers, level = instance
    monkeypatch.setattr(PhaseTask, "due", property(lambda task: 0.0 if task.renewals < 2 else 1e9))
    for at in (level, level - 0.25):
        verdicts = set()
        for most in (1, 3, 8, 20, 50, 120, 400):
            asks = [0]

            def expired(self: Any, asks: list[int] = asks, most: int = most) -> bool:
                asks[0] += 1
                return asks[0] > most

            with monkeypatch.context() as patch:
                patch.setattr(running.Run, "expired", expired)
                verdicts.add(run(layers, asked(at), tmp_path))
        right = Verdict.UNSAT if at == level else Verdict.SAT
        assert Verdict.TIMEOUT in verdicts and verdicts <= {Verdict.TIMEOUT, right}


def failing(errors: list[BaseException | None], real: Callable[..., Any]) -> Callable[..., Any]:
    """A method that raises what the list says, call by call, and works after that."""

    def method(self: PhaseTask, *given: Any) -> Any:
        error = errors.pop(0) if errors else None
        if error is not None:
            raise error
        return real(self, *given)

    return method


@pytest.mark.parametrize("lost", [MemoryError(), RuntimeError("CUDA out of memory."), RuntimeError("can't allocate")])
def test_short_memory_shrinks_batches(
    lost: Exception, instance: tuple[Layers, float], monkeypatch: Patch, tmp_path: Path
) -> None:
    layers, level = instance
    for verdict, at in ((Verdict.UNSAT, level), (Verdict.SAT, level - 0.25)):
        for call in (1, 2):
            errors: list[BaseException | None] = [*[None] * call, lost]
            monkeypatch.setattr(PhaseTask, "explore", failing(errors, real_explore))
            assert run(layers, asked(at), tmp_path) is verdict
            assert verdict is Verdict.SAT or not errors


def test_memory_too_short_for_one_domain_is_no_verdict(
    instance: tuple[Layers, float], monkeypatch: Patch, tmp_path: Path
) -> None:
    monkeypatch.setattr(PhaseTask, "explore", failing([MemoryError()] * 1000, real_explore))
    with pytest.raises(MemoryError):
        run(instance[0], asked(instance[1]), tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("anything"), ValueError(), IndexError(), AssertionError(), OSError()])
@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("method", ["explore", "renewed", "certified"])
def test_any_other_exception_is_no_verdict(
    method: str, call: int, error: Exception, instance: tuple[Layers, float], monkeypatch: Patch, tmp_path: Path
) -> None:
    monkeypatch.setattr(PhaseTask, "due", property(lambda task: 0.0 if task.renewals < 3 else 1e9))
    monkeypatch.setattr(PhaseTask, method, failing([*[None] * call, error], getattr(PhaseTask, method)))
    with pytest.raises(type(error)):
        run(instance[0], asked(instance[1]), tmp_path)


@pytest.mark.parametrize("everything", [True, False])
def test_domains_that_cannot_be_split_make_it_unknown(
    everything: bool, instance: tuple[Layers, float], monkeypatch: Patch, tmp_path: Path
) -> None:
    """Even a single stuck domain among many that were refuted."""
    calls = [0]

    def explore(task: PhaseTask, domains: Phases) -> Explored:
        calls[0] += 1
        found = real_explore(task, domains)
        if everything or calls[0] == 2:
            return Explored(None, 0, found.points[:0], found.cases[:0], stuck=1)
        return found

    monkeypatch.setattr(PhaseTask, "explore", explore)
    result = decide(model(instance[0]), (3, 1), asked(instance[1]), tmp_path)
    assert result.verdict is Verdict.UNKNOWN and "split" in result.reason


@pytest.mark.parametrize("error", [RuntimeError("in the helper"), EOFError("it died"), BrokenPipeError(32, "it died")])
def test_a_search_goes_on_without_a_helper_that_fails(
    error: Exception, instance: tuple[Layers, float], use: Use, monkeypatch: Patch, tmp_path: Path
) -> None:
    calls: list[int] = []

    def broken(self: object, domains: Phases) -> Explored:
        calls.append(len(domains))
        raise error

    use(helper=True, crowd=1, batch=1)
    monkeypatch.setattr(bab, "_PATIENCE", 0.0)
    monkeypatch.setattr(bab.Helper, "explore", broken)
    layers, level = instance
    for verdict, at in ((Verdict.UNSAT, level), (Verdict.SAT, level - 0.25)):
        assert run(layers, asked(at), tmp_path) is verdict
    assert calls, "the helper was never asked: the test shows nothing"


class Tally:
    """A search whose domains are numbers: each is halved until it is a single leaf, which is closed and counted.

    ``ills``: exceptions to raise, one a call, now and then.
    """

    depth = 6

    def __init__(self, seed: int, ills: list[Exception]):
        self.rng, self.ills, self.leaves, self.renewals = np.random.default_rng(seed), ills, [], 0
        self.lock = threading.Lock()

    def root(self) -> Phases:
        one = torch.ones((1, 1))
        none = one[:, :0]
        return Phases(one, one, none.long(), none, one, none, none, one[:, 0].double(), one[:, 0].double())

    def explore(self, domains: Phases) -> Explored:
        with self.lock:
            if self.ills and self.rng.random() < 0.3 and len(domains) > 1:
                raise self.ills.pop()
            numbers = domains.lower
            ends = (numbers >= 1 << self.depth)[:, 0]
            self.leaves += [int(number) for number in numbers[ends, 0]]
        left = domains.select(~ends)
        halves = [replace(left, lower=2 * left.lower + k, share=left.share / 2) for k in (0, 1)]
        children = Phases.joined(halves) if len(left) else None
        return Explored(children, int(ends.sum()), torch.zeros((0, 1)), torch.zeros(0, dtype=torch.int64))

    def __getattr__(self, name: str) -> Any:
        """The rest of what a search may ask for, all about renewals, which change nothing here."""
        if name == "due":
            return self.renewals * 3.0
        if name == "herd":
            return 5
        raise AttributeError(name)

    def delayed(self, explored: int) -> Tally:
        return self

    def renewed(self, part: Phases, explored: int, assistant: Any) -> tuple[Tally, Phases]:
        self.renewals += 1
        return self, part


class Aside:
    """A helper in the same process; after some calls it dies, its domains with it."""

    def __init__(self, task: Any, lives: int):
        self.task, self.lives = task, lives

    def explore(self, domains: Phases) -> Explored:
        self.lives -= 1
        if self.lives < 0:
            raise EOFError("it died")
        return self.task.explore(domains)

    def call(self, function: Callable[..., Any], *given: Any) -> Any:
        return function(self.task, *given)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("lives", [0, 1, 4, 1000])
@pytest.mark.parametrize("batch", [1, 3, 50])
def test_the_loop_loses_no_domain(batch: int, lives: int, monkeypatch: Patch) -> None:
    """Every leaf is closed exactly once, whatever memory is short of, whoever dies, however often it renews."""
    monkeypatch.setattr(bab, "_PATIENCE", 0.0)
    for seed in range(4):
        ills: list[Exception] = [MemoryError(), RuntimeError("out of memory"), MemoryError()] if seed % 2 else []
        task = Tally(seed, ills)
        made: list[Aside] = []

        def helper(work: Any, made: list[Aside] = made) -> Aside:
            made.append(Aside(work, lives))
            return made[-1]

        helper.possible = lambda: True  # type: ignore[attr-defined]
        monkeypatch.setattr(bab, "Helper", helper)
        limits = bab.Limits(batch, True, lambda: False, crowd=2)
        outcome = bab.search(task, limits, lambda point, case: None, lambda *told: None)  # type: ignore[arg-type]
        assert outcome.verdict is Verdict.UNSAT
        assert sorted(task.leaves) == list(range(1 << task.depth, 2 << task.depth))
        assert made and task.renewals
