"""Reading ONNX models: ``read_graph`` turns a file or a ModelProto into a graph of core operators."""

from verinn.io.onnx_reader.load import load_model
from verinn.io.onnx_reader.reader import read_graph

__all__ = ["load_model", "read_graph"]
