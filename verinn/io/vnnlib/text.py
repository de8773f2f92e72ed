"""The characters of a VNN-LIB file: checks, comments, tokens, and where in the file something is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from verinn.errors import InputError, Unsupported

# One token: a bracket or comma, a quoted name, or a word. What a word means is the parser's business.
TOKEN = re.compile(rb'\s*+(?:([()\[\],])|("[^"\n]*")|([^\s()\[\],"]++))')
SPACE = re.compile(rb"\s*+")

_COMMENT = re.compile(rb";[^\n]*+")
_COMMENT_OR_QUOTED = re.compile(rb'"[^"\n]*"|;[^\n]*+')
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass
class Source:
    """A file's text without comments (line numbers kept), and the warnings found while reading it."""

    name: str
    data: bytes
    warnings: dict[str, int] = field(default_factory=dict)

    def fail(self, position: int, problem: str, hint: str | None = None) -> InputError:
        """The error for what stands at ``position``."""
        return InputError(problem, file=self.name, place=self.place(position), hint=hint)

    def unsupported(self, position: int, problem: str, hint: str | None = None) -> Unsupported:
        """The error for legal input at ``position`` that verinn can't handle."""
        return Unsupported(problem, file=self.name, place=self.place(position), hint=hint)

    def warn(self, position: int, message: str) -> None:
        """Notes a warning once, with the first place where it applies."""
        self.warnings.setdefault(message, position)

    def told(self) -> tuple[str, ...]:
        """The warnings as sentences that begin with their place."""
        return tuple(f"{self.place(position)}: {message}" for message, position in self.warnings.items())

    def place(self, position: int) -> str:
        """ "line 12" for the position of a character."""
        return "line " + str(self.data.count(b"\n", 0, position) + 1)

    def skip_space(self, position: int) -> int:
        match = SPACE.match(self.data, position)
        return match.end() if match else position

    def token(self, position: int) -> tuple[bytes, int, int]:
        """The token at or after ``position`` with its start and end; b"" at the end of the file."""
        match = TOKEN.match(self.data, position)
        if match is None:
            start = self.skip_space(position)
            if start < len(self.data):
                raise self.fail(start, "a quoted name does not end", 'close it with " on the same line')
            return b"", start, start
        return match[match.lastindex or 0], match.start(match.lastindex or 0), match.end()


def show(word: bytes) -> str:
    """A word of the file for an error message: short, printable, quoted."""
    text = word.decode("utf-8", "replace")
    if len(text) > 40:
        text = text[:37] + "..."
    return "'" + "".join(c if c.isprintable() else "?" for c in text) + "'"


def open_source(data: bytes, name: str) -> Source:
    """Checks the bytes of a file and takes its comments out.

    Raises InputError for an empty file, NUL bytes, UTF-16, text that is not UTF-8, and lone carriage
    returns (where a comment ends would be doubtful). A UTF-8 byte order mark is skipped with a warning.
    """
    source = Source(name, data)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError("is UTF-16 text", file=name, place="line 1", hint="save it as UTF-8")
    if data.startswith(_BYTE_ORDER_MARK):
        data = data[len(_BYTE_ORDER_MARK) :]
        source.warn(0, "byte order mark skipped")
    nul = data.find(b"\0")
    if nul >= 0:
        raise source.fail(nul, "NUL byte", "the file is damaged or not text; fetch it again")
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Source(name, data).fail(error.start, "not UTF-8 text", "save it as UTF-8") from None
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
        lone = data.find(b"\r")
        if lone >= 0:
            raise Source(name, data).fail(lone, "carriage return without line feed", "use LF or CRLF line ends")
    if b";" in data:
        data = _COMMENT_OR_QUOTED.sub(_keep_quoted, data) if b'"' in data else _COMMENT.sub(b"", data)
    source.data = data
    if not data.strip():
        raise InputError("is empty", file=name, place="line 1", hint="a property needs declarations and assertions")
    return source


def _keep_quoted(match: re.Match[bytes]) -> bytes:
    return match[0] if match[0].startswith(b'"') else b""
