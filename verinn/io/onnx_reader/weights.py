"""Weights that become inputs of a model, so that they can be perturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from verinn.errors import InputError
from verinn.io.onnx_reader.load import Model


def weights_as_inputs(model: Model, names: Sequence[str]) -> Model:
    """A copy of a model with the initializers of the given names as inputs, after its own, in the given order.

    Raises InputError for a name that no initializer has.
    """
    held = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    for name in names:
        if name not in held:
            known = ", ".join(held) or "none"
            raise InputError(f"has no initializer '{name}'", file=model.file, hint=f"initializers: {known}")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    kept = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    given = [value for value in graph.input if value.name not in names]
    del graph.input[:]
    graph.input.extend(given)
    for name in names:
        graph.input.append(onnx.helper.make_tensor_value_info(name, held[name].data_type, list(held[name].dims)))
    return replace(model, proto=proto, data=None)
