"""Values: dataclasses that nobody changes once they are made.

The type checker sees to that.  At run time they are plain: a frozen dataclass takes four times as
long to make, and one message makes a dozen of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast, dataclass_transform

_C = TypeVar("_C", bound=type)


@dataclass_transform(frozen_default=True)
def value(cls: _C) -> _C:
    """A dataclass that is compared and hashed by its fields, and frozen for the type checker."""
    return cast(_C, dataclass(slots=True, unsafe_hash=True)(cls))
