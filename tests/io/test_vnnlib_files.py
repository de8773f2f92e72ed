"""Every file under vnnlib/: what a legal one means, and what is said of a malformed one."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from verinn.errors import InputError
from verinn.io.vnnlib import parse_query, read_query
from verinn.passes.property import to_property

ROOT = Path(__file__).resolve().parents[2]
VALID = ROOT / "vnnlib" / "valid"
MALFORMED = ROOT / "vnnlib" / "malformed"
EXPECTED_VALID = json.loads((VALID / "expected.json").read_text())
EXPECTED_ERRORS = json.loads((MALFORMED / "expected.json").read_text())


@pytest.mark.parametrize("folder, expected", [(VALID, EXPECTED_VALID), (MALFORMED, EXPECTED_ERRORS)])
def test_the_index_names_every_file(folder: Path, expected: dict[str, object]) -> None:
    assert sorted(path.name for path in folder.glob("*.vnnlib")) == sorted(expected)


@pytest.mark.parametrize("name", sorted(EXPECTED_ERRORS))
@pytest.mark.parametrize("fast", [True, False])
def test_malformed(name: str, fast: bool) -> None:
    with pytest.raises(InputError) as error:
        parse_query((MALFORMED / name).read_bytes(), name, fast)
    assert str(error.value) == EXPECTED_ERRORS[name]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(EXPECTED_VALID))
@pytest.mark.parametrize("fast", [True, False])
def test_valid(name: str, fast: bool) -> None:
    query = parse_query((VALID / name).read_bytes(), name, fast)
    property = to_property(query)
    cases = list(property.cases)
    found = {
        "version": query.version,
        "networks": len(query.networks),
        "n": property.n,
        "m": property.m,
        "cases": len(cases),
        "conjunctions": sum(len(case.conjunctions) for case in cases),
        "rows": sum(len(rows) for case in cases for rows in case.conjunctions),
        "input_rows": sum(len(case.input_rows) for case in cases),
        "exact": all(case.exact for case in cases),
        "limits": list(property.limits),
        "warnings": list(property.warnings),
    }
    assert found == EXPECTED_VALID[name]


def test_gzip_is_told_by_content(tmp_path: Path) -> None:
    packed = tmp_path / "property.vnnlib"
    packed.write_bytes(gzip.compress((VALID / "2.0-robustness.vnnlib").read_bytes()))
    assert len(read_query(packed).variables) == 2


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_query(tmp_path / "none.vnnlib")
    with pytest.raises(InputError, match="is a directory"):
        read_query(tmp_path)


def test_the_folder_does_not_hide_the_package_of_the_same_name() -> None:
    code = "import vnnlib; print(vnnlib.parse_query_string.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "parse_query_string", done.stderr


def test_reading_needs_no_heavy_import() -> None:
    code = "import sys, verinn.io.vnnlib; print([m for m in ('torch', 'onnx', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
