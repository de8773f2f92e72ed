"""The one exception that means "the input is bad": one clear line, exit code 2."""

from __future__ import annotations


class InputError(Exception):
    """A model, a property or an option that verinn can't accept.

    ``str(error)`` is a single line: the file, the place in it, what is wrong, what to do.
    Nothing else is raised on purpose for bad input; any other exception is a defect of verinn.
    """

    def __init__(self, problem: str, *, file: str | None = None, place: str | None = None, hint: str | None = None):
        self.problem = problem
        self.file = file
        self.place = place
        self.hint = hint
        where = ": ".join(part for part in (file, place) if part)
        text = f"{where}: {problem}" if where else problem
        if hint:
            text = f"{text}; {hint}"
        super().__init__(" ".join(text.split()))

    def in_file(self, file: str) -> InputError:
        """The same error, told for ``file`` (kept as it is when a file is named already)."""
        if self.file is not None:
            return self
        return type(self)(self.problem, file=file, place=self.place, hint=self.hint)


class Unsupported(InputError):
    """Legal input that verinn can't handle yet (an operator, a type, a feature)."""
