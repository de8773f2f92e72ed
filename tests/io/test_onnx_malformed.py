"""Bad models: one clear line each, whatever is wrong; and the ones that look bad but aren't."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from verinn.attack.replay import Original, agree
from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader import read_graph

MODELS = Path(__file__).parents[1] / "models"
FOLDER = MODELS / "malformed"
EXPECTED: dict[str, str | list[str]] = json.loads((FOLDER / "expected.json").read_text())
sys.path.insert(0, str(MODELS))
import make  # noqa: E402 -- the recipe beside the files

# Small products on two threads wait for each other whenever the machine is busy.
torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_malformed(name: str) -> None:
    expected, path = EXPECTED[name], FOLDER / name
    if expected == "ok":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            agree(read_graph(path), Original(path))
        return
    with pytest.raises(InputError) as caught:
        read_graph(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    assert len(text) < 400
    for part in expected:
        assert part in text


def test_recipe_and_files_agree() -> None:
    assert {name: expected for name, (_, expected) in make.CASES.items()} == EXPECTED
    assert {path.name for path in FOLDER.glob("*.onnx")} == set(EXPECTED)
    for path in FOLDER.glob("*.onnx"):
        assert path.stat().st_size < 10_000


def test_unsupported_is_told_from_damaged() -> None:
    for name in ("unknown_operator", "custom_domain", "loop", "string_input", "cast_that_wraps"):
        with pytest.raises(Unsupported):
            read_graph(FOLDER / f"{name}.onnx")
    with pytest.raises(InputError) as caught:
        read_graph(FOLDER / "cyclic.onnx")
    assert not isinstance(caught.value, Unsupported)


def test_false_declared_shape_warns() -> None:
    with pytest.warns(UserWarning, match="'y' is declared with the shape"):
        graph = read_graph(FOLDER / "wrong_declared_shape.onnx")
    assert graph.shapes()[graph.outputs[0].value] == (1, 2)


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.onnx"):
        with pytest.raises(InputError, match=r"directory|no such file"):
            read_graph(path)


def test_external_data(tmp_path: Path) -> None:
    """Data beside the model is read, through no link that leads elsewhere."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "model").mkdir()
    data = np.arange(6, dtype=np.float32).tobytes()
    for folder in ("outside", "model"):
        (tmp_path / folder / "data.bin").write_bytes(data)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "outside" / "data.bin")
    inside, linked = tmp_path / "model" / "inside.onnx", tmp_path / "model" / "linked.onnx"
    inside.write_bytes(make._external("data.bin"))
    linked.write_bytes(make._external("link.bin"))
    graph = read_graph(inside)
    assert graph.nodes[0].params["weight"].value.tolist() == [[0, 1], [2, 3], [4, 5]]
    agree(graph, Original(inside))
    with pytest.raises(InputError, match="outside the model's folder"):
        read_graph(linked)
    with pytest.raises(InputError, match="give the model as a path"):
        read_graph(onnx.load(inside, load_external_data=False))


def test_every_truncation_is_refused_or_read(tmp_path: Path) -> None:
    """No cut of a file ends in anything but InputError (or, cut between fields, in a graph)."""
    data, path = make.dump(make.good()), tmp_path / "cut.onnx"
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        try:
            read_graph(path)
        except InputError:
            continue


def test_flipped_bytes_end_in_no_traceback(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(3), tmp_path / "flipped.onnx"
    kernel = make.weight("k", np.ones((2, 1, 2, 2), np.float32))
    nodes = [
        make.node("Conv", "x k", "c", strides=[2, 1], pads=[1, 0, 0, 1]),
        make.node("AveragePool", "c", "p", kernel_shape=[2, 2], ceil_mode=1),
        make.node("Reshape", "p s", "y"),
    ]
    initial = [kernel, make.weight("s", np.array([1, -1]))]
    data = make.dump(make.pack(nodes, inputs=[make.value("x", [1, 1, 5, 5])], outputs=[], initial=initial))
    for _ in range(400):
        broken = bytearray(data)
        for at in rng.integers(0, len(data), 2):
            broken[at] = rng.integers(256)
        path.write_bytes(bytes(broken))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_graph(path)
            except InputError as error:
                assert "\n" not in str(error)
