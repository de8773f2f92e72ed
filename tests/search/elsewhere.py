"""A GPU that isn't there: tensors on it are the CPU's, marked, and refused where CUDA would refuse them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda")
_MARK = "_elsewhere"
#: what leaves a tensor where it is, or reads numbers from it
_FREE = {"__repr__", "__format__", "__len__", "__hash__", "dim", "size", "numel", "element_size", "requires_grad_"}
_FREE |= {"item", "tolist", "__bool__", "__int__", "__float__", "__index__"}
#: what CUDA's tensors can't do
_HOST = {"numpy", "__array__"}


def away(x: Tensor) -> bool:
    return hasattr(x, _MARK)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _device(value: Any) -> torch.device | None:
    """The device that an argument names."""
    if isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda"):
        return torch.device(value)
    return value if isinstance(value, torch.device) else None


def _home(value: Any) -> Any:
    return value if _device(value) is None else torch.device("cpu")


class Elsewhere(TorchFunctionMode):
    """While it is on, what is made on or moved to ``cuda`` is made on the CPU and marked.

    Marked tensors meet only marked ones, or a single unmarked number. CUDA would also take an index from the
    CPU, at the price of a transfer: here that is refused too.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        given = list(_tensors([*args, *kwargs.values()]))
        if name == "__get__" and func.__self__ in (Tensor.device, Tensor.is_cuda):  # type: ignore[attr-defined]
            told = away(args[0])
            return func(*args) if not told else CUDA if func.__self__ is Tensor.device else True  # type: ignore[attr-defined]
        if name in _HOST and any(map(away, given)):
            raise TypeError(f"can't convert a tensor on a GPU: {name}")
        if name in _FREE or func is torch.device:
            return func(*args, **kwargs)
        target = self._target(name, args, kwargs, given)
        result = func(*map(_home, args), **{key: _home(value) for key, value in kwargs.items()})
        return self._placed(result, target, given)

    @staticmethod
    def _target(name: str, args: Any, kwargs: dict[str, Any], given: list[Tensor]) -> bool:
        """Whether the answer is marked; RuntimeError where the arguments are on two devices."""
        named = [device for device in map(_device, [*args, *kwargs.values()]) if device is not None]
        if named or name == "cpu":
            return bool(named) and named[0].type == "cuda"
        if name == "to":
            return away(given[-1])
        if not any(map(away, given)):
            return False
        if not all(away(x) or x.dim() == 0 for x in given):
            sides = [("cuda" if away(x) else "cpu", tuple(x.shape)) for x in given]
            raise RuntimeError(f"{name}: tensors on two devices: {sides}")
        return True

    @staticmethod
    def _placed(result: Any, target: bool, given: list[Tensor]) -> Any:
        if isinstance(result, Tensor):
            if away(result) == target:
                return result
            if any(result is x for x in given):  # it was there already: what is moved is another tensor
                result = result.clone()
            if target:
                setattr(result, _MARK, True)
        else:
            for x in _tensors(result):
                if target:
                    setattr(x, _MARK, True)
        return result
