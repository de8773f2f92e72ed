"""Witness texts: exact, in the format, and refused when they are not."""

from pathlib import Path

import numpy as np
import pytest
from face_tools import ONE, TWO
from hypothesis import given
from hypothesis import strategies as st

from verinn.errors import InputError
from verinn.io.vnnlib import read_query
from verinn.io.witness import answer_text, format_numbers, read_answer
from verinn.ir.query import Query
from verinn.result import Result, Verdict, Witness


def query(tmp_path: Path, text: str) -> Query:
    path = tmp_path / "query.vnnlib"
    path.write_text(text)
    return read_query(path)


@given(st.floats(width=32, allow_nan=False))
def test_float32_reads_back_exactly(value: float) -> None:
    (text,) = format_numbers(np.array([value], np.float32))
    assert "e" not in text
    assert np.float32(text) == np.float32(value)
    assert np.float32(float(text)) == np.float32(value)


@given(st.floats(allow_nan=False))
def test_float64_reads_back_exactly(value: float) -> None:
    (text,) = format_numbers(np.array([value]))
    assert "e" not in text
    assert float(text) == value


def test_other_types() -> None:
    assert format_numbers(np.array([3, -4])) == ["3", "-4"]
    assert format_numbers(np.array([True, False])) == ["1", "0"]
    assert format_numbers(np.array([0.1], np.float16)) == ["0.099975586"]


VALUES = {"A": np.array([[0.1, 1e-7]], np.float32), "B": np.array(-0.0, np.float32)}


def test_version_2_reads_back(tmp_path: Path) -> None:
    found = query(tmp_path, TWO)
    text = answer_text(found, Result(Verdict.SAT, Witness(VALUES)))
    assert text == "sat\nA float32 [1,2]\n0.1\n0.0000001\nB float32 []\n-0.0\n"
    word, values = read_answer(text, found)
    assert word == "sat"
    assert np.array_equal(values["A"].astype(np.float32), VALUES["A"])
    assert values["B"].shape == ()


def test_version_1_reads_back(tmp_path: Path) -> None:
    found = query(tmp_path, ONE)
    given_values = {"X": np.array([0.1, 16777216.0], np.float32), "Y": np.array([2.5], np.float32)}
    text = answer_text(found, Result(Verdict.SAT, Witness(given_values)))
    assert text == "sat\n((X_0 0.1)\n (X_1 16777216.0)\n (Y_0 2.5))\n"
    _, values = read_answer(text, found)
    assert np.array_equal(values["X"].astype(np.float32), given_values["X"])


def test_other_verdicts_are_a_word(tmp_path: Path) -> None:
    found = query(tmp_path, ONE)
    assert answer_text(found, Result(Verdict.UNSAT)) == "unsat\n"
    assert answer_text(found, Result(Verdict.TIMEOUT)) == "timeout\n"
    assert answer_text(found, Result(Verdict.TIMEOUT), "timed-out") == "timed-out\n"
    assert read_answer("unknown\n", found) == ("unknown", {})


def test_a_witness_has_to_fit_the_declaration(tmp_path: Path) -> None:
    found = query(tmp_path, TWO)
    for values in ({"A": VALUES["A"]}, {**VALUES, "A": np.zeros(3, np.float32)}):
        with pytest.raises(ValueError, match="witness"):
            answer_text(found, Result(Verdict.SAT, Witness(values)))


GOOD = "sat\nA float32 [1,2]\n0.1\n0.2\nB float32 []\n1.0\n"


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("float32 [1,2]", "float64 [1,2]"),
        GOOD.replace("[1,2]", "[2,1]"),
        GOOD.replace("[1,2]", "[1, 2]"),
        GOOD.replace("B float32 []\n1.0\n", ""),
        GOOD.replace("0.1\n0.2", "0.1 0.2"),
        GOOD + "1.0\n",
        GOOD + "\n",
        GOOD.replace("0.2", "many"),
        "sat\nB float32 []\n1.0\nA float32 [1,2]\n0.1\n0.2\n",
        "sat\n",
    ],
)
def test_malformed_blocks_are_told(text: str, tmp_path: Path) -> None:
    found = query(tmp_path, TWO)
    assert read_answer(GOOD, found)[0] == "sat"
    with pytest.raises(InputError):
        read_answer(text, found)


@pytest.mark.parametrize(
    "text", ["sat\n((X_0 1.0)\n (Y_0 1.0))\n", "sat\n((X_1 1.0)\n (X_0 1.0)\n (Y_0 1.0))\n", "sat\n()\n"]
)
def test_malformed_pairs_are_told(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_answer(text, query(tmp_path, ONE))
