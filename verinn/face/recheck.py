"""Is a printed counterexample one? The text is read back and replayed, with nothing of the run that made it.

As the competition's scorer does: the inputs as printed, cast to the model's element type, run in ONNX
Runtime on the original file; printed outputs are ignored; every assertion has to hold, without tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from verinn.errors import InputError
from verinn.io.files import read_bytes
from verinn.io.match import assign_models
from verinn.io.vnnlib import read_query
from verinn.io.witness import read_answer
from verinn.ir.evaluate import holds
from verinn.ir.query import Kind, Network, Query, Variable

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def recheck(models: str | Mapping[str, str], property_path: str, text: str) -> str:
    """What is wrong with the witness in ``text``, the answer to a query; empty when nothing is.

    Raises InputError for files that can't be read and for a witness that isn't in the format.
    """
    query = read_query(property_path)
    word, printed = read_answer(text, query)
    if word != "sat":
        return f"the verdict is {word}, not sat"
    return "" if holds(query, replayed(query, models, printed)) else "an assertion does not hold"


def replayed(query: Query, models: str | Mapping[str, str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The value of every variable of a query when its input variables have the values given.

    Inputs are cast to the models' element types; all else is what ONNX Runtime computes on the original
    files. Raises InputError for models that can't be read or that take another number of elements.
    """
    values: dict[str, np.ndarray] = {}
    for name, path in assign_models(query, models).items():
        network = next(network for network in query.networks if network.name == name)
        values.update(_replay(network, path, inputs))
    return values


def _replay(network: Network, path: str, printed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The value of every variable of a network, from its printed inputs."""
    parts = {kind: [v for v in network.variables if v.kind is kind] for kind in Kind}
    session = _session(path, [str(v.onnx_name) for v in parts[Kind.HIDDEN]])
    feeds = session.get_inputs()
    flat = np.concatenate([printed[v.name].reshape(-1) for v in parts[Kind.INPUT]])
    sizes = [int(np.prod(_shape(feed.shape))) for feed in feeds]
    if sum(sizes) != flat.size:
        raise InputError(f"takes {sum(sizes)} input elements, the witness has {flat.size}", file=path)
    arrays: dict[str, np.ndarray] = {}
    for feed, part in zip(feeds, np.split(flat, np.cumsum(sizes)[:-1]), strict=True):
        arrays[feed.name] = part.astype(_TYPES.get(feed.type, np.float32)).reshape(_shape(feed.shape))
    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, session.run(None, arrays), strict=True))
    hidden = {v.name: found[str(v.onnx_name)] for v in parts[Kind.HIDDEN]}
    # The tensors added for hidden variables come after the model's own outputs.
    outputs = _split([found[name] for name in names], parts[Kind.OUTPUT])
    return {**_split(list(arrays.values()), parts[Kind.INPUT]), **hidden, **outputs}


def _split(arrays: Sequence[np.ndarray], variables: Sequence[Variable]) -> dict[str, np.ndarray]:
    """The variables' values, in order, out of arrays laid side by side. What is left over is ignored."""
    flat = np.concatenate([np.asarray(array).reshape(-1).astype(np.float64) for array in arrays])
    values, at = {}, 0
    for variable in variables:
        values[variable.name] = flat[at : at + variable.size]
        at += variable.size
    return values


def _shape(shape: Sequence[object]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else 1 for size in shape)


def _session(path: str, hidden: Sequence[str]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model: str | bytes = path  # external data is found beside the file
    if hidden:
        import onnx

        proto = onnx.ModelProto.FromString(read_bytes(path))
        present = {value.name for value in proto.graph.output}
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in hidden if name not in present)
        model = proto.SerializeToString()
    elif _packed(path):
        model = read_bytes(path)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _packed(path: str) -> bool:
    """Whether the file is gzipped: then ONNX Runtime needs its content."""
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"
