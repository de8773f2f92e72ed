"""Functions replaced for the time of a context, wherever they were imported, and whether they were called."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

Function = Callable[..., Any]


class Patch:
    """Replaces functions and puts them back. ``calls`` counts how often what was put in has run."""

    def __init__(self) -> None:
        self.calls = 0
        self._undo: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for owner, name, original in reversed(self._undo):
            setattr(owner, name, original)
        self._undo.clear()

    def method(self, owner: type, name: str, make: Callable[[Function], Function]) -> None:
        """Replace a method that the class itself defines by ``make(original)``. AttributeError when it does not."""
        if name not in vars(owner):
            raise AttributeError(f"{owner.__name__} defines no {name}: the mutant has to be brought up to date")
        original = vars(owner)[name]
        static = isinstance(original, staticmethod)
        counted = self._counted(make(original.__func__ if static else original), original)
        self._set(owner, name, staticmethod(counted) if static else counted)

    def function(self, module: Any, name: str, make: Callable[[Function], Function]) -> None:
        """Replace a module's function by ``make(original)``, in every module of verinn that has imported it."""
        original = getattr(module, name)
        counted = self._counted(make(original), original)
        for other in [part for key, part in list(sys.modules.items()) if key.split(".")[0] == "verinn"]:
            for alias, value in list(vars(other).items()):
                if value is original:
                    self._set(other, alias, counted)

    def here(self, module: Any, name: str, make: Callable[[Function], Function]) -> None:
        """Replace a function in one module only, whatever module it comes from."""
        original = getattr(module, name)
        self._set(module, name, self._counted(make(original), original))

    def entry(self, table: dict[str, Function], key: str, make: Callable[[Function], Function]) -> None:
        """Replace an entry of a table of functions."""
        original = table[key]
        table[key] = self._counted(make(original), original)
        self._undo.append((_Table(table), key, original))

    def rule(self, owner: Any, name: str, rule: Function, make: Callable[[Function], Function]) -> None:
        """Replace one function in a tuple of functions."""
        rules = getattr(owner, name)
        counted = self._counted(make(rule), rule)
        if rule not in rules:
            raise AttributeError(f"{name} holds no {rule.__name__}: the mutant has to be brought up to date")
        self._set(owner, name, tuple(counted if one is rule else one for one in rules))

    def value(self, owner: Any, name: str, value: Any) -> None:
        """Replace a number; this counts as no call."""
        getattr(owner, name)
        self._set(owner, name, value)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        self._undo.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    def _counted(self, function: Function, like: Any) -> Function:
        @functools.wraps(function)
        def counted(*given: Any, **named: Any) -> Any:
            self.calls += 1
            return function(*given, **named)

        counted.__name__ = getattr(like, "__name__", function.__name__)
        return counted


class _Table:
    """A dictionary whose entries are put back as attributes are."""

    def __init__(self, table: dict[str, Function]):
        object.__setattr__(self, "_table", table)

    def __setattr__(self, name: str, value: Any) -> None:
        self._table[name] = value  # type: ignore[attr-defined]
