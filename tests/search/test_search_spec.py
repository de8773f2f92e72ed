"""Properties as tensors: nothing is left out, and inexact numbers are paid for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from search_brute import bounds, write

from verinn.io.vnnlib import read_query
from verinn.ir.prop import Case, Rows, SparseMatrix
from verinn.passes.property import to_property
from verinn.search import spec as spec_module
from verinn.search.spec import groups

torch.set_num_threads(1)


def rows(count: int, width: int, level: float) -> Rows:
    x = SparseMatrix(np.zeros(count + 1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0), 2)
    y = SparseMatrix(np.arange(count + 1), np.arange(count) % width, np.full(count, level), width)
    return Rows(x, y, np.full(count, level), np.zeros(count, dtype=bool))


def case(counts: list[int], level: float) -> Case:
    ends = np.zeros(2), np.ones(2), np.zeros(2, dtype=np.float32), np.ones(2, dtype=np.float32)
    return Case(*ends, rows(0, 3, 0.0), tuple(rows(count, 3, level) for count in counts))


def test_every_conjunction_of_every_case_is_in_one_group(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(spec_module, "MOST_CONJUNCTIONS", 4)
    monkeypatch.setattr(spec_module, "MOST_NUMBERS", 60)
    rng = np.random.default_rng(0)
    layouts = [[1], [2, 1], [0], [1] * 9, [3, 3]]
    cases = [case(layouts[int(rng.integers(len(layouts)))], float(k + 1)) for k in range(60)]
    seen: dict[float, int] = {}
    for spec in groups(cases):
        assert spec.conjunctions <= 4
        for s, owner in enumerate(spec.cases):
            level = float(owner.conjunctions[0].rhs[0]) if len(owner.conjunctions[0]) else 0.0
            wide = spec.y[s].abs().sum()
            assert level == 0.0 or float(wide) == level * len(spec.owner)
            seen[id(owner)] = seen.get(id(owner), 0) + spec.conjunctions  # type: ignore[index]
    assert seen == {id(c): len(c.conjunctions) for c in cases}


def test_a_cut_keeps_every_point_of_the_decimal_constraint(tmp_path: Path) -> None:
    """0.1 x + 0.1 y ≤ 1 holds at (5, 5), exactly; so does the row of float64 numbers that stands for it."""
    for a, b, c in (("0.1", "0.1", "1"), ("0.7", "0.1", "4"), ("0.3", "-0.1", "1"), ("1.1", "2.2", "16.5")):
        path = write(tmp_path / "p.vnnlib", 2, 1, bounds([0.0, 0.0], [5.0, 5.0]))
        path.write_text(path.read_text() + f"(assert (<= (+ (* {a} X_0) (* {b} X_1)) {c}))\n(assert (>= Y_0 0))\n")
        prop = to_property(read_query(path))
        (spec,) = groups(list(prop.cases))
        slope, constant = spec.cut[0, 0].tolist(), float(spec.cut_c[0, 0])
        point = (Fraction(5), Fraction(5))
        exact = Fraction(a) * point[0] + Fraction(b) * point[1] - Fraction(c)
        held = sum((Fraction(k) * x for k, x in zip(slope, point, strict=True)), Fraction(constant))
        assert exact <= 0 and held <= 0
