"""Values: dataclasses that nobody changes once they are made; and enums that are looked up often.

The type checker sees to it that nobody does.  At run time they are plain: a frozen dataclass takes
four times as long to make, and one message makes a dozen of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeVar, cast, dataclass_transform

_C = TypeVar("_C", bound=type)
_E = TypeVar("_E", bound=Enum)


@dataclass_transform(frozen_default=True)
def value(cls: _C) -> _C:
    """A dataclass that is compared and hashed by its fields, and frozen for the type checker."""
    return cast(_C, dataclass(slots=True, unsafe_hash=True)(cls))


def at_hand(cls: type[_E]) -> type[_E]:
    """An enum whose members are attributes: Python 3.11 finds them by a function of the class."""
    for name, member in cls.__members__.items():
        type.__setattr__(cls, name, member)
    return cls
