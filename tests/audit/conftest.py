"""A tiny suite whose truth is plain: F (x0 + x1) ≥ 1 over the unit box, for several F."""

import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from verinn.audit.instance import Instance, Relation, Truth, save_suite

sys.path.insert(0, str(Path(__file__).parent.parent / "io"))  # random models of one operator

PROPERTY = """\
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.0))
(assert (<= X_0 1.0))
(assert (>= X_1 0.0))
(assert (<= X_1 {upper}))
(assert (>= Y_0 1.0))
"""


def write_model(path: Path, factor: float) -> None:
    """Y_0 = factor (X_0 + X_1): at (0.5, 0.5) it is factor."""
    weight = helper.make_tensor("W", TensorProto.FLOAT, [2, 1], [factor, factor])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["Y"])],
        "small",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1, 1])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def instance(name: str, model: str, prop: str = "p", **more: object) -> Instance:
    values = {"timeout": 20.0, "family": "linear", "operators": ("MatMul",), **more}
    return Instance(name, f"onnx/{model}.onnx", f"vnnlib/{prop}.vnnlib", **values)  # type: ignore[arg-type]


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instances ``hidden`` and ``smaller`` (sat), ``safe`` (unsat), ``clean`` (nobody knows)."""
    folder = tmp_path / "suite"
    for name in ("onnx", "vnnlib"):
        (folder / name).mkdir(parents=True)
    for name, factor in (("two", 2.0), ("quarter", 0.25)):
        write_model(folder / "onnx" / f"{name}.onnx", factor)
    (folder / "vnnlib" / "p.vnnlib").write_text(PROPERTY.format(upper="1.0"))
    (folder / "vnnlib" / "q.vnnlib").write_text(PROPERTY.format(upper="0.5"))
    half = (0.5).hex()
    point = {"X": (half, half)}
    save_suite(
        folder,
        [
            instance("hidden", "two", radius=0.125, margin_ulps=3.0, quick=True),
            instance("smaller", "two", "q", family="shrunk", radius=2.0**-9, margin_ulps=0.0),
            instance("safe", "quarter", margin_ulps=1e6, quick=True),
            instance("clean", "quarter", "q", family="clean"),
        ],
        [Relation("shrinking", "implies", ("hidden", "smaller"))],
        [
            Truth("hidden", "sat", "planted", witness=point, exact={"Y": ("2",)}, runtime={"Y": ((2.0).hex(),)}),
            Truth("smaller", "sat", "planted", witness=point, exact={"Y": ("2",)}, runtime={"Y": ((2.0).hex(),)}),
            Truth("safe", "unsat", "the maximum is at a corner"),
            Truth("clean", None, "nobody knows"),
        ],
    )
    monkeypatch.setenv("FAKE_PIDS", str(tmp_path / "pid"))
    return folder
