"""verinn: a formal neural network verifier. ``verify`` and the names below are its Python API."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from verinn.errors import InputError, Unsupported
from verinn.options import Options
from verinn.result import Result, Verdict, Witness

if TYPE_CHECKING:
    from verinn.api import Description, bounds, describe, load, verify
    from verinn.bounds.node import Bounds
    from verinn.bounds.perturbation import Ball, Box, Polytope
    from verinn.bounds.substitution import Substitutions

__version__ = "0.1.0"
__all__ = [
    "Ball",
    "Bounds",
    "Box",
    "Description",
    "InputError",
    "Options",
    "Polytope",
    "Result",
    "Substitutions",
    "Unsupported",
    "Verdict",
    "Witness",
    "bounds",
    "describe",
    "load",
    "verify",
]
_LATER = {
    "Ball": "bounds.perturbation",
    "Bounds": "bounds.node",
    "Box": "bounds.perturbation",
    "Description": "api",
    "Polytope": "bounds.perturbation",
    "Substitutions": "bounds.substitution",
    "describe": "api",
    "load": "api",
    "verify": "api",
}


def __getattr__(name: str) -> Any:
    """``verify`` and its kin are loaded when first asked for: they need torch, which takes a second."""
    if name == "bounds":  # the package, which is a function as well
        return import_module("verinn.bounds")
    if name in _LATER:
        return getattr(import_module(f"verinn.{_LATER[name]}"), name)
    raise AttributeError(f"module 'verinn' has no attribute '{name}'")
