"""verinn: a formal neural network verifier. ``verify`` and the names below are its Python API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verinn.errors import InputError, Unsupported
from verinn.options import Options
from verinn.result import Result, Verdict, Witness

if TYPE_CHECKING:
    from verinn.api import Description, describe, verify

__version__ = "0.1.0"
__all__ = [
    "Description",
    "InputError",
    "Options",
    "Result",
    "Unsupported",
    "Verdict",
    "Witness",
    "describe",
    "verify",
]


def __getattr__(name: str) -> Any:
    """``verify`` and its kin are loaded when first asked for: they need torch, which takes a second."""
    if name in ("Description", "describe", "verify"):
        from verinn import api

        return getattr(api, name)
    raise AttributeError(f"module 'verinn' has no attribute '{name}'")
