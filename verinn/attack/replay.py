"""Replay in ONNX Runtime, on the original file: what a witness and the reader are checked against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from verinn.errors import InputError
from verinn.io.onnx_reader.load import Model, load_model
from verinn.ir.graph import Graph, Shape
from verinn.ops.program import Program
from verinn.passes.scatter import scatter

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
# Half the distance between neighbouring numbers, relative.
_ROUNDING = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}

# Inputs that a model and its graph are compared on.
SAMPLES = 4
# Multiplications that the comparison at load may spend.
_BUDGET = 8_000_000_000


class Original:
    """The model as ONNX Runtime runs it, from the file's own bytes.

    ``hidden`` names tensors that are returned beside the outputs (then a copy of the model with those
    outputs added is run). ``plain``: node by node as the file has it, nothing fused. InputError when ONNX Runtime
    can't load the model.
    """

    def __init__(
        self,
        model: str | Path | onnx.ModelProto | Model,
        *,
        hidden: Sequence[str] = (),
        threads: int = 1,
        plain: bool = False,
    ) -> None:
        loaded = model if isinstance(model, Model) else load_model(model)
        self.file = loaded.file
        self._made = loaded, tuple(hidden), threads
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if plain:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if loaded.folder is not None:  # external data is relative to the file, which the bytes don't tell
            folder = str(loaded.folder.resolve())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            data = _bytes(loaded, hidden)
            self.session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class of their own
            raise InputError(
                f"ONNX Runtime can't load the model ({_brief(error)})", file=self.file, hint="repair or re-export it"
            ) from None
        self.inputs: dict[str, tuple[Shape, type[np.generic]]] = {}
        for value in self.session.get_inputs():
            shape = tuple(size if isinstance(size, int) and size > 0 else 1 for size in value.shape)
            self.inputs[value.name] = (shape, _NUMPY.get(value.type, np.float32))
        self.outputs = tuple(value.name for value in self.session.get_outputs())

    def plain(self) -> Original:
        """The same model, run as the file has it."""
        loaded, hidden, threads = self._made
        return Original(loaded, hidden=hidden, threads=threads, plain=True)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output for one input: arrays are cast and reshaped as the model declares them.

        InputError when an input is missing or of another size, or when ONNX Runtime fails.
        """
        feed = {}
        for name, (shape, dtype) in self.inputs.items():
            array = np.asarray(inputs[name]) if name in inputs else np.zeros(0)
            if array.size != int(np.prod(shape)):
                raise InputError(f"input '{name}' takes {list(shape)}, not {list(array.shape)}", file=self.file)
            feed[name] = array.astype(dtype).reshape(shape)
        try:
            return dict(zip(self.outputs, self.session.run(None, feed), strict=True))
        except Exception as error:
            raise InputError(
                f"ONNX Runtime fails on the model ({_brief(error)})", file=self.file, hint="repair or re-export it"
            ) from None


def _bytes(loaded: Model, hidden: Sequence[str]) -> bytes:
    present = {value.name for value in loaded.proto.graph.output}
    wanted = [name for name in hidden if name not in present]
    if loaded.data is not None and not wanted:
        return loaded.data
    copy = type(loaded.proto)()
    copy.CopyFrom(loaded.proto)
    for name in wanted:
        copy.graph.output.add().name = name
    return bytes(copy.SerializeToString())


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def agree(
    graph: Graph,
    original: Original,
    seed: int = 0,
    boxes: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    samples: int = SAMPLES,
    raw: Graph | None = None,
) -> str:
    """Compare the graph, in float64, with ONNX Runtime on random inputs; InputError when they differ.

    The result is a remark for the user, mostly empty: what ONNX Runtime makes of a model when it fuses its nodes may
    differ from what the file says, as with quantised models, whose values are then rounded elsewhere. The graph has
    to agree with the file.

    ``boxes`` are (lower, upper) pairs over the inputs flattened side by side; without them inputs are
    standard normal, at several scales. What rounding explains is measured, not assumed: the graph is
    run again several times with a random perturbation after each node as large as the network's own
    arithmetic may make there, and the outputs may differ by a multiple of how far those runs scatter.
    ``raw``: the graph before it was simplified, whose rounding is nearer to the file's: a mix that the next
    layer undoes rounds, and is gone from the simplified graph.
    """
    rng = np.random.default_rng(seed)
    program = Program.prepare(graph, torch.float64)
    samples, runs = _affordable(program, samples)
    points = _points(graph, rng, boxes, samples)
    types = [*(value.dtype for value in graph.inputs), *(output.dtype for output in graph.outputs)]
    unit = max(_ROUNDING.get(dtype, 2.0**-24) for dtype in types)
    clean = program.run(points)
    spread = _spread(raw or graph, points, unit, seed, runs)
    try:
        _compare_all(graph, original, points, clean, spread)
    except InputError:
        plain = original.plain()
        _compare_all(graph, plain, points, clean, spread)
        apart = _apart(graph, original, plain, points)
        return (
            f"{original.file or 'the model'}: ONNX Runtime's optimisations change what the model computes, by up to "
            f"{apart:.3g}; verdicts are about the file, and a counterexample has to stand in that execution, too"
        )
    return ""


def _compare_all(
    graph: Graph,
    original: Original,
    points: Sequence[Tensor],
    clean: Mapping[str, Tensor],
    spread: Mapping[str, Tensor],
) -> None:
    """Every output at every point. Raises InputError."""
    shapes, count = graph.shapes(), points[0].shape[0]
    for index, feed in enumerate(_feeds(graph, points)):
        theirs = original.run(feed)
        for output in graph.outputs:
            if output.name not in theirs:
                raise InputError(f"ONNX Runtime makes no output '{output.name}'", file=original.file)
            ours = clean[output.value].expand(count, *shapes[output.value])[index].numpy()
            stray = spread[output.name].expand(count, *shapes[output.value])[index].numpy()
            _compare(ours, theirs[output.name], stray, original.file, output.name)


def _feeds(graph: Graph, points: Sequence[Tensor]) -> Iterator[dict[str, np.ndarray]]:
    for index in range(points[0].shape[0]):
        yield {value.name: x[index].numpy() for value, x in zip(graph.inputs, points, strict=True)}


def _apart(graph: Graph, one: Original, two: Original, points: Sequence[Tensor]) -> float:
    """The greatest difference of any output at any point."""
    found = 0.0
    for feed in _feeds(graph, points):
        first, second = one.run(feed), two.run(feed)
        for output in graph.outputs:
            a, b = (np.asarray(side[output.name], np.float64) for side in (first, second))
            found = max(found, float(np.abs(a - b).max(initial=0.0)))
    return found


def _spread(graph: Graph, points: list[Tensor], unit: float, seed: int, runs: int) -> dict[str, Tensor]:
    """How far rounding may move each output, by its name."""
    program = Program.prepare(graph, torch.float64)
    strays = scatter(program, points, program.run(points), unit, seed, runs)
    return {output.name: strays[output.value] for output in graph.outputs}


def _affordable(program: Program, samples: int) -> tuple[int, int]:
    """Fewer samples and perturbed runs for a large network: the check should cost a second, not a minute."""
    products = sum((step.forward_terms + 1) * math.prod(step.node.shape) for step in program.steps)
    evaluations = _BUDGET // max(1, products)
    runs = 6 if evaluations > 16 else 2
    return max(1, min(samples, evaluations // (runs + 2))), runs


def _points(
    graph: Graph, rng: np.random.Generator, boxes: Sequence[tuple[np.ndarray, np.ndarray]] | None, samples: int
) -> list[Tensor]:
    """Inputs as float32 numbers, (samples, *shape) for each input of the graph."""
    sizes = [int(np.prod(value.shape)) for value in graph.inputs]
    flat = rng.standard_normal((samples, sum(sizes))) * np.resize([1.0, 0.1, 10.0, 0.5], samples)[:, None]
    for index, (lower, upper) in enumerate(boxes or ()):
        low, high = (np.clip(np.asarray(bound, np.float64).reshape(-1), -1e3, 1e3) for bound in (lower, upper))
        if index < samples and low.size == flat.shape[1]:
            flat[index] = low + rng.random(low.size) * (np.maximum(low, high) - low)
    ends = np.cumsum(sizes)[:-1]
    parts = [
        part if value.dtype in _ROUNDING else _whole(part, value.dtype)
        for part, value in zip(np.split(flat, ends, axis=1), graph.inputs, strict=True)
    ]
    narrow = {"float16": np.float16, "bfloat16": np.float16}
    return [
        torch.from_numpy(
            part.astype(narrow.get(value.dtype, np.float32)).astype(np.float64).reshape(samples, *value.shape)
        )
        for part, value in zip(parts, graph.inputs, strict=True)
    ]


def _whole(part: np.ndarray, dtype: str) -> np.ndarray:
    """Whole numbers for an input of an integer type, 0 and 1 for a boolean one."""
    whole = np.rint(part)
    if dtype == "bool":
        return np.asarray(whole % 2)
    return np.asarray(np.abs(whole) if dtype.startswith("u") else whole)


def _compare(ours: np.ndarray, theirs: np.ndarray, spread: np.ndarray, file: str, name: str) -> None:
    hint = "please report it: no verdict is given for a model that may be misread"
    place = f"output '{name}'"
    if theirs.shape != ours.shape:
        raise InputError(
            f"the model as read makes the shape {list(ours.shape)}, ONNX Runtime {list(theirs.shape)}",
            file=file,
            place=place,
            hint=hint,
        )
    theirs = theirs.astype(np.float64)
    largest = float(np.abs(ours).max(initial=0.0))
    allowed = 32.0 * (spread + float(spread.mean())) + 1e-30
    lost = ~np.isfinite(theirs) & (np.abs(ours) + allowed < 1e38)
    wrong = lost | (np.isfinite(theirs) & (np.abs(theirs - ours) > allowed))
    if np.any(wrong):
        at = int(np.argmax(wrong))
        raise InputError(
            f"the model as read disagrees with ONNX Runtime: element {at} is {ours.reshape(-1)[at]:.9g} here and "
            f"{theirs.reshape(-1)[at]:.9g} there (largest output {largest:.3g})",
            file=file,
            place=place,
            hint=hint,
        )
