"""Declarations against models."""

from pathlib import Path

import pytest

from verinn.errors import InputError
from verinn.io.match import assign_models, match
from verinn.io.vnnlib import read_query
from verinn.ir.graph import Graph, Input, Node, Output
from verinn.ir.query import Query


def query(tmp_path: Path, text: str) -> Query:
    path = tmp_path / "query.vnnlib"
    path.write_text(text)
    return read_query(path)


def declared(tmp_path: Path, *lines: str) -> Query:
    body = "\n".join(f"({line})" for line in lines)
    return query(tmp_path, f"(vnnlib-version <2.0>)\n(declare-network f\n{body}\n)\n(assert (<= 0.0 1.0))\n")


def graph(dtype: str = "float32") -> Graph:
    """Input x [1,2] → hidden "mid" [1,3] → output "out" [1,3]."""
    nodes = (Node("a", "relu", ("x",), (1, 3)), Node("b", "relu", ("a",), (1, 3)))
    outputs = (Output("out", "b", dtype), Output("mid", "a", dtype))
    return Graph((Input("x", (1, 2), dtype),), nodes, outputs)


def plain(dtype: str = "float32") -> Graph:
    whole = graph(dtype)
    return Graph(whole.inputs, whole.nodes, whole.outputs[:1])


IN, OUT = "declare-input A float32 [1,2]", "declare-output B float32 [1,3]"
HIDDEN = 'declare-hidden H float32 [1,3] "mid"'


def test_what_fits_is_silent(tmp_path: Path) -> None:
    assert match(declared(tmp_path, IN, OUT), {"f": plain()}) == ()
    assert match(declared(tmp_path, IN, HIDDEN, OUT), {"f": graph()}) == ()


def test_real_fits_every_type(tmp_path: Path) -> None:
    found = declared(tmp_path, "declare-input A real [1,2]", "declare-output B real [1,3]")
    assert match(found, {"f": plain("float64")}) == ()


def test_another_layout_is_a_warning(tmp_path: Path) -> None:
    found = declared(tmp_path, "declare-input A float32 [2]", OUT)
    (warning,) = match(found, {"f": plain()})
    assert "row-major" in warning


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["declare-input A float32 [1,3]", OUT], "declared [1, 3]"),
        ([IN, "declare-output B float32 [1,2]"], "declared [1, 2]"),
        (["declare-input A float64 [1,2]", OUT], "declared float64"),
        ([IN, "declare-output B float16 [1,3]"], "declared float16"),
        ([IN, "declare-input C float32 [1]", OUT], "declares 2 inputs"),
        ([IN, OUT, "declare-output D float32 [1]"], "declares 2 outputs"),
        ([IN, 'declare-hidden H float32 [1,3] "gone"', OUT], '"gone"'),
        ([IN, 'declare-hidden H float32 [1,4] "mid"', OUT], "declared [1, 4]"),
    ],
)
def test_what_does_not_fit_is_refused(lines: list[str], words: str, tmp_path: Path) -> None:
    found = declared(tmp_path, *lines)
    with pytest.raises(InputError) as caught:
        match(found, {"f": graph() if any("mid" in line for line in lines) else plain()})
    assert words in str(caught.value)
    assert found.file in str(caught.value)


def test_an_undeclared_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="declares 1 outputs, the model has 2"):
        match(declared(tmp_path, IN, OUT), {"f": graph()})


def test_version_1_counts_elements(tmp_path: Path) -> None:
    names = ["X_0", "X_1", "Y_0", "Y_1", "Y_2"]
    text = "".join(f"(declare-const {name} Real)\n" for name in names) + "(assert (<= X_0 1.0))\n"
    found = query(tmp_path, text)
    name = found.networks[0].name
    assert match(found, {name: plain()}) == ()
    fewer = query(tmp_path, text.replace("(declare-const Y_2 Real)\n", ""))
    with pytest.raises(InputError, match="declares 2 output elements, the model has 3"):
        match(fewer, {name: plain()})


def test_a_single_model_is_the_single_networks(tmp_path: Path) -> None:
    found = declared(tmp_path, IN, OUT)
    assert assign_models(found, "m.onnx") == {"f": "m.onnx"}
    with pytest.raises(InputError, match="no network g"):
        assign_models(found, {"f": "m.onnx", "g": "n.onnx"})
