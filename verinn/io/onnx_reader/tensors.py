"""Tensors of a file as constants: dense, sparse, and stored in files beside the model."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import FLOATS, Known, limited
from verinn.ir.const import exact

_T = onnx.TensorProto
_INTEGERS = {_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64, _T.BOOL}


def type_name(elem_type: int) -> str:
    """The lower-case name of an ONNX element type, as VNN-LIB 2.0 writes it (float32, int64, …)."""
    if elem_type in FLOATS:
        return FLOATS[elem_type]
    try:
        return str(_T.DataType.Name(elem_type)).lower()
    except ValueError:
        return f"type {elem_type}"


def known_of(tensor: onnx.TensorProto, folder: Path | None = None) -> Known:
    """A TensorProto as a constant; external data is read from ``folder`` and nowhere else."""
    if tensor.data_type not in FLOATS and tensor.data_type not in _INTEGERS:
        raise Unsupported(f"a tensor has the element type {type_name(tensor.data_type)}")
    limited(tensor.dims)
    if tensor.data_location == _T.EXTERNAL:
        tensor = _with_data(tensor, folder)
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"a tensor of the shape {list(tensor.dims)} holds another number of elements", hint="the file is damaged"
        ) from None
    return Known(exact(array), tensor.data_type)


def known_of_sparse(tensor: onnx.SparseTensorProto) -> Known:
    """A SparseTensorProto, made dense."""
    dims = tuple(tensor.dims)
    limited(dims)
    values, indices = known_of(tensor.values), known_of(tensor.indices).const.value
    if indices.ndim == 2 and len(dims) > 0 and indices.shape[1] == len(dims):
        inside = bool(np.all((indices >= 0) & (indices < np.array(dims))))
        flat = np.ravel_multi_index(tuple(indices.T), dims) if inside else None
    else:
        inside = indices.ndim == 1 and bool(np.all((indices >= 0) & (indices < math.prod(dims))))
        flat = indices if inside else None
    if flat is None or flat.shape != values.shape:
        raise InputError("a sparse tensor has indices that don't fit its shape or values", hint="the file is damaged")
    dense = np.zeros(math.prod(dims), values.const.value.dtype)
    dense[flat] = values.const.value
    return Known(exact(dense.reshape(dims)), values.dtype)


def _with_data(tensor: onnx.TensorProto, folder: Path | None) -> onnx.TensorProto:
    """A copy of the tensor that holds its external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise InputError(f"the data is in the file '{location}'", hint="give the model as a path")
    path = _inside(folder, location)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        with path.open("rb") as stream:
            available = os.fstat(stream.fileno()).st_size - offset
            length = available if length < 0 else length
            if offset < 0 or length > available:
                raise InputError(f"its external data '{location}' is too short", hint="the file is damaged")
            stream.seek(offset)
            data = stream.read(length)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"its external data '{location}' can't be read ({text})", hint="keep it beside the model"
        ) from None
    held = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, raw_data=data)
    held.dims.extend(tensor.dims)
    return held


def _inside(folder: Path, location: str) -> Path:
    """The path of external data, which must stay in the model's folder, links resolved."""
    base = folder.resolve()
    path = (base / location).resolve()
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or base not in path.parents:
        raise InputError(
            f"its external data '{location}' lies outside the model's folder", hint="keep it beside the model"
        )
    return path
