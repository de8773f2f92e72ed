"""verinn: a formal neural network verifier. ``verify`` and the names below are its Python API."""

from verinn.errors import InputError, Unsupported
from verinn.options import Options
from verinn.result import Result, Verdict, Witness

__version__ = "0.1.0"
__all__ = ["InputError", "Options", "Result", "Unsupported", "Verdict", "Witness"]
