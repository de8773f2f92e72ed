"""Sound bounds. The package is a function, too: ``verinn.bounds(model, sets)``, see ``verinn.api.bounds``."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """The package as a function, which loads torch when it is called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from verinn.api import bounds

        return bounds(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
