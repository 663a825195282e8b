"""A dictionary that cannot be changed behind the back of whoever keeps count of what is in it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Self, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Watched(dict[K, V]):
    """A dictionary whose every change goes through ``__setitem__`` or ``__delitem__``, for subclasses to keep count in them.

    ``dict``'s own other methods do not, those of ``MutableMapping`` do. Looking things up stays as fast as it is.
    """

    clear = MutableMapping.clear
    popitem = MutableMapping.popitem
    setdefault = MutableMapping.setdefault
    update = MutableMapping.update

    def pop(self, key: K, *default: Any) -> Any:
        """As dict's."""
        if default and key not in self:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def __ior__(self, other: Any) -> Self:  # type: ignore[override, misc]  # of two overloads the one that counts
        """As dict's."""
        self.update(other)
        return self
