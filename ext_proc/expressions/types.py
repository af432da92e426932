"""Static types, and the schema: which facts there are and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Type:
    """`name`, and for a list its items' type, for a map its keys' and values'."""

    name: str
    arguments: tuple[Type, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.arguments))})" if self.arguments else self.name

    @property
    def a(self) -> str:
        """With its article, for messages."""
        return f"{'an' if self.name == 'int' else 'a'} {self}"


DYN = Type("dyn")
"""Any value, known only when it is evaluated: free JSON, a token's claims."""
BOOL, INT, UINT, DOUBLE = Type("bool"), Type("int"), Type("uint"), Type("double")
STRING, BYTES, NULL, TYPE = Type("string"), Type("bytes"), Type("null"), Type("type")
TIMESTAMP, DURATION = Type("timestamp"), Type("duration")
NUMBERS = frozenset({INT, UINT, DOUBLE})

Schema: TypeAlias = "Mapping[str, Type | Schema]"
"""Names to types, nested; what is below a `dyn` is free."""


def list_of(item: Type) -> Type:
    return Type("list", (item,))


def map_of(key: Type, value: Type) -> Type:
    return Type("map", (key, value))


def may_equal(a: Type, b: Type) -> bool:
    """False where no value of one type ever equals one of the other."""
    if DYN in (a, b) or (a in NUMBERS and b in NUMBERS):
        return True
    if a.name != b.name:
        return False
    return all(may_equal(x, y) for x, y in zip(a.arguments, b.arguments, strict=False))


def fits(given: Type, wanted: Type) -> bool:
    """Whether a value of type `given` may be what is wanted."""
    if DYN in (given, wanted):
        return True
    if given.name != wanted.name:
        return False
    return all(fits(x, y) for x, y in zip(given.arguments, wanted.arguments, strict=False))


def joined(types: list[Type]) -> Type:
    """The one type of all of them; `dyn` where they differ or there are none."""
    return types[0] if types and all(t == types[0] for t in types) else DYN
