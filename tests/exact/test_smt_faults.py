"""Z3 that times out, gives up, runs out of memory, is interrupted, overruns or raises: all of it is `unknown`."""

import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_brute as brute
import torch
import z3

from verinn.api import Options, verify
from verinn.exact.encoding.encode import encode
from verinn.exact.encoding.goals import goal_of
from verinn.exact.smt import guard, solver
from verinn.exact.smt.guard import Gone, Interrupted, guarded
from verinn.exact.smt.solver import Domain, Settings, SmtSolver, Status
from verinn.io.vnnlib import read_query
from verinn.ops.program import Program
from verinn.result import Verdict
from verinn.search.problem import Problem, build


def problem(tmp_path: Path, level: float = 1e9, sizes: tuple[int, ...] = (2, 4, 1)) -> Problem:
    """y ≥ level over a box, by a random network: at the default level there is no such point."""
    layers = brute.random_layers(np.random.default_rng(4), sizes)
    rows = [*brute.bounds([-1.0] * sizes[0], [1.0] * sizes[0]), brute.row(">=", level, (1, "Y_0"))]
    return build(brute.model(layers), read_query(brute.write(tmp_path / "p.vnnlib", sizes[0], 1, rows)))


def solver_of(
    made: Problem, settings: Settings | None = None, expired: Callable[[], bool] = lambda: False
) -> SmtSolver:
    case = made.prop.cases[0]
    draft = encode(Program.prepare(made.graph, torch.float64), case.lower, case.upper)
    draft.builder.conditions.append(goal_of(draft, case).condition)
    return SmtSolver(draft.finished(), settings, expired)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*given: Any, **named: Any) -> Any:
        raise error

    return fail


FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "unknown": (lambda self, *literals: z3.unknown, "gave up"),
    "exception": (raising(z3.Z3Exception(b"something broke")), "something broke"),
    "canceled": (raising(z3.Z3Exception(b"canceled")), "canceled"),
    "memory": (raising(z3.Z3Exception(b"out of memory")), "out of memory"),
    "python's memory": (raising(MemoryError()), "out of memory"),
    "an answer nobody knows": (lambda self, *literals: None, "gave up"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_check_is_unknown(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = problem(tmp_path)
    assert solver_of(made).check().status is Status.UNSAT
    check, reason = FAULTS[fault]
    monkeypatch.setattr(z3.Solver, "check", check)
    asked = solver_of(made)
    for _ in range(2):
        answer = asked.check(seconds=5)
        assert answer.status is Status.UNKNOWN and reason in answer.reason
    result = verify_smt(made, monkeypatch)
    assert result[0] is Verdict.UNKNOWN and reason in result[1]


@pytest.mark.parametrize("name", ["add", "push", "set", "pop", "unsat_core"])
def test_a_solver_that_fails_elsewhere_is_unknown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = problem(tmp_path)
    monkeypatch.setattr(z3.Solver, name, raising(z3.Z3Exception(b"broken inside")))
    from verinn.exact.encoding.goals import within

    answer = solver_of(made).check(extra=[within([], [], [])])
    assert answer.status is Status.UNKNOWN and "broken inside" in answer.reason


def verify_smt(made: Problem, monkeypatch: pytest.MonkeyPatch, seconds: float = 20.0) -> tuple[Verdict, str]:
    from verinn.search.run import solve

    options = Options(engine="smt", attack=False, deadline=time.monotonic() + seconds)
    result = solve(made, options)
    return result.verdict, result.reason


def test_a_call_that_overruns_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when Z3's context is interrupted; whatever it answers then is not believed."""
    stop = threading.Event()

    def slow(self: z3.Solver, *literals: Any) -> Any:
        assert stop.wait(20)
        return z3.unsat

    monkeypatch.setattr(z3.Solver, "check", slow)
    monkeypatch.setattr(z3.Context, "interrupt", lambda self: stop.set())
    monkeypatch.setattr(guard, "GRACE", 0.05)
    answer = solver_of(problem(tmp_path)).check(seconds=0.05)
    assert answer.status is Status.UNKNOWN and "interrupted" in answer.reason


def test_a_call_that_never_ends_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def stuck(self: z3.Solver, *literals: Any) -> Any:
        release.wait(30)
        return z3.unsat

    monkeypatch.setattr(z3.Solver, "check", stuck)
    monkeypatch.setattr(z3.Context, "interrupt", lambda self: None)
    monkeypatch.setattr(guard, "GRACE", 0.05)
    monkeypatch.setattr(guard, "DESERT", 0.2)
    asked = solver_of(problem(tmp_path))
    began = time.monotonic()
    answer = asked.check(seconds=0.05)
    assert answer.status is Status.UNKNOWN and "did not stop" in answer.reason
    assert time.monotonic() - began < 10
    again = asked.check()  # the solver is in that thread's hands
    release.set()
    assert again.status is Status.UNKNOWN and asked.broken


def test_the_end_of_a_run_interrupts(tmp_path: Path) -> None:
    """A hard question; time is up a moment after it was asked."""
    made = problem(tmp_path, 0.0, (4, 12, 12, 1))
    began = time.monotonic()
    asked = solver_of(made, expired=lambda: time.monotonic() - began > 0.3)
    assert asked.check().status is Status.UNKNOWN or time.monotonic() - began < 0.5


def test_z3s_own_limits_are_unknown(tmp_path: Path) -> None:
    made = problem(tmp_path, 40.0, (4, 14, 14, 1))
    late = solver_of(made).check(seconds=0.02)
    assert late.status is Status.UNKNOWN
    tight = solver_of(made, Settings(memory=1)).check(seconds=20)
    assert tight.status is Status.UNKNOWN


def test_after_an_interrupted_call_the_solver_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = problem(tmp_path)
    asked = solver_of(made)
    with monkeypatch.context() as patch:
        patch.setattr(z3.Solver, "check", raising(z3.Z3Exception(b"canceled")))
        assert asked.check().status is Status.UNKNOWN
    assert asked.check().status is Status.UNSAT
    with monkeypatch.context() as patch:
        patch.setattr(z3.Solver, "check", raising(z3.Z3Exception(b"canceled")))
        patch.setattr(solver, "MOST_REMAKES", 1)
        assert asked.check().status is Status.UNKNOWN
    assert asked.check().status is Status.UNKNOWN and asked.broken


def test_time_outs_split_and_never_refute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer of some domains is a time-out: the case stays undecided, however many others are refuted."""
    made = problem(tmp_path)
    real = SmtSolver.check
    calls = []

    def flaky(self: SmtSolver, domain: Domain | None = None, *given: Any, **named: Any) -> Any:
        calls.append(domain)
        if len(calls) == 1 or (domain is not None and domain.phases and len(calls) % 2):
            return solver.Answer(Status.UNKNOWN, "canceled")
        return real(self, domain, *given, **named)

    monkeypatch.setattr(SmtSolver, "check", flaky)
    verdict, _ = verify_smt(made, monkeypatch, 5.0)
    assert len(calls) > 1
    assert verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT, Verdict.UNSAT)
    monkeypatch.setattr(SmtSolver, "check", lambda *given, **named: solver.Answer(Status.UNKNOWN, "canceled"))
    verdict, _ = verify_smt(made, monkeypatch, 2.0)
    assert verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)


def test_a_solution_that_does_not_replay_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Z3 calls a solution: without a replay there is no `sat`, and no `unsat` either."""
    made = problem(tmp_path)
    point = tuple(Fraction(0) for _ in range(1000))
    monkeypatch.setattr(SmtSolver, "check", lambda *given, **named: solver.Answer(Status.SAT, point=point))
    verdict, reason = verify_smt(made, monkeypatch)
    assert verdict is Verdict.UNKNOWN and "no float32 input" in reason
    seen = []

    def once(self: SmtSolver, *given: Any, **named: Any) -> solver.Answer:
        seen.append(1)
        return solver.Answer(Status.SAT, point=point) if len(seen) == 1 else solver.Answer(Status.UNSAT)

    monkeypatch.setattr(SmtSolver, "check", once)  # refuted only beside the points that were left out
    assert verify_smt(made, monkeypatch)[0] is Verdict.UNKNOWN


def test_the_guard_hands_on_results_and_exceptions() -> None:
    never: Callable[[], bool] = lambda: False  # noqa: E731
    assert guarded(lambda: 3, lambda: None, 1.0, never) == 3
    with pytest.raises(KeyError):
        guarded(raising(KeyError("k")), lambda: None, 1.0, never)
    with pytest.raises(Interrupted):
        guarded(lambda: time.sleep(0.3), lambda: None, 9.0, lambda: True)


def test_what_does_not_come_back_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "DESERT", 0.1)
    release = threading.Event()
    with pytest.raises(Gone):
        guarded(lambda: release.wait(10), lambda: None, 9.0, lambda: True)
    release.set()


def test_the_engine_decides_through_the_front_door(tmp_path: Path) -> None:
    layers = brute.random_layers(np.random.default_rng(4), (2, 4, 1))
    most = brute.evaluate(layers, np.random.default_rng(0).uniform(-1, 1, (4000, 2))).max()
    for level, verdict in ((most - 0.5, Verdict.SAT), (most + 2.0, Verdict.UNSAT)):
        rows = [*brute.bounds([-1, -1], [1, 1]), brute.row(">=", float(np.float32(level)), (1, "Y_0"))]
        path = brute.write(tmp_path / "p.vnnlib", 2, 1, rows)
        for attack in (False, True):
            assert verify(brute.model(layers), path, Options(engine="smt", attack=attack)).verdict is verdict
