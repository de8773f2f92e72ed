"""What the names in a formula stand for: every element of a declared variable has a scalar id."""

from __future__ import annotations

from dataclasses import dataclass, field

from verinn.io.vnnlib.text import Source, show
from verinn.ir.query import Network, Variable

FLOATS = (
    "float16", "float32", "float64", "bfloat16",
    "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float4e2m1",
)  # fmt: skip
INTEGERS = ("int4", "int8", "int16", "int32", "int64", "uint4", "uint8", "uint16", "uint32", "uint64")
OTHERS = ("bool", "string", "complex64", "complex128")
TYPES = ("real", *FLOATS, *INTEGERS, *OTHERS)


@dataclass
class Symbols:
    """The declared variables by name, and how elements of them are written in this version."""

    version: str
    networks: list[Network] = field(default_factory=list)
    by_name: dict[bytes, Variable] = field(default_factory=dict)

    def element(self, source: Source, position: int, name: bytes, index: list[bytes] | None) -> tuple[int, str]:
        """The scalar id and the type of ``NAME`` (1.0: X_3) or ``NAME[i,j]`` (2.0).

        Raises InputError for an undeclared name, a wrong number of indices, or an index that is
        not a whole number within the shape.
        """
        if self.version == "1.0":
            return self._flat(source, position, name, index), "real"
        variable = self.by_name.get(name)
        if variable is None:
            raise source.fail(
                position, f"{show(name)} is not declared", "declare it in a network before the assertions"
            )
        rank = len(variable.shape)
        given = 0 if index is None else len(index)
        if given != rank:
            raise source.fail(
                position,
                f"{show(name)} is of rank {rank} but given {given} {'index' if given == 1 else 'indices'}",
                "give one index for each dimension" if rank else "a scalar is written without index",
            )
        offset = 0
        for word, extent in zip(index or (), variable.shape, strict=True):
            if not word.isdigit() or len(word) > 18:
                raise source.fail(
                    position, f"bad index {show(word)} of {show(name)}", "an index is a whole number from 0"
                )
            if int(word) >= extent:
                raise source.fail(
                    position,
                    f"index {word.decode()} of {show(name)} is out of range",
                    f"it goes from 0 to {extent - 1}",
                )
            offset = offset * extent + int(word)
        return variable.start + offset, variable.dtype

    def _flat(self, source: Source, position: int, name: bytes, index: list[bytes] | None) -> int:
        variable = self.by_name.get(name[:1]) if name[1:2] == b"_" else None
        number = name[2:]
        if index is not None:
            raise source.fail(
                position, "indices in brackets are VNN-LIB 2.0", "begin the file with (vnnlib-version <2.0>)"
            )
        if variable is None:
            raise source.fail(
                position, f"{show(name)} is not declared", "the variables of VNN-LIB 1.0 are X_0 … and Y_0 …"
            )
        if not number.isdigit() or len(number) > 18 or (number[:1] == b"0" and number != b"0"):
            raise source.fail(position, f"bad index in {show(name)}", "an index is a whole number from 0")
        if int(number) >= variable.shape[0]:
            raise source.fail(
                position, f"{show(name)} is not declared",
                f"{name[:1].decode()}_0 to {name[:1].decode()}_{variable.shape[0] - 1} are",
            )  # fmt: skip
        return variable.start + int(number)
