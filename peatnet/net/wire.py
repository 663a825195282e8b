"""Frames and strict msgpack: how every peatnet message looks on any byte stream.

A frame is two lengths, a header and a payload:

    4 bytes   header length, unsigned big-endian
    4 bytes   payload length, unsigned big-endian
    header    one msgpack map with short text keys; "t" names the message
    payload   raw bytes, empty for most messages

The payload stands outside msgpack so that a receiver can read chunk bytes straight into a buffer that it
owns. Unknown keys are ignored; an ill-typed one is an error, and so is a missing one that is not optional. docs/protocol.md is the specification.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import msgpack

from peatnet.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = struct.Struct(">II")

# Headers carry a few numbers and hashes; nothing of ours comes near this.
MAX_HEADER = 4096
# The largest payload is a chunk of the largest chunk size.
MAX_PAYLOAD = 4 * 1024 * 1024


def pack_prefix(header: Mapping[str, Any], payload_length: int = 0) -> bytes:
    """The start of a frame: both lengths and the packed header. The payload follows it."""
    packed: bytes = msgpack.packb(header)
    return PREFIX.pack(len(packed), payload_length) + packed


def unpack_map(data: bytes | bytearray | memoryview) -> Fields:
    """Decode one msgpack map, with every length in it bounded by the data's own.

    Raises:
        RemoteProtocolError: it is not exactly one msgpack map with text keys.
    """
    bound = len(data)
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=bound,
            max_bin_len=bound,
            max_array_len=bound,
            max_map_len=bound,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as exc:
        # ValueError covers msgpack's FormatError, StackError and ExtraData, and bad UTF-8; where msgpack runs
        # without its C extension, deep nesting is a RecursionError.
        raise RemoteProtocolError(f"malformed msgpack: {exc or type(exc).__name__}") from exc
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"a {type(value).__name__} where a map belongs")
    return Fields(value)


class Fields:
    """The fields of a decoded map, taken out one by one with their type and bounds checked.

    Each taker raises RemoteProtocolError, naming the field, when it is missing, ill-typed or out of bounds.
    """

    __slots__ = ("_map",)

    def __init__(self, fields: dict[Any, Any]) -> None:
        self._map = fields

    def __contains__(self, key: str) -> bool:
        """Whether an optional field is there."""
        return key in self._map

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer in ``low..high``, both included."""
        value = self._map.get(key)
        # bool is an int to Python, not to msgpack.
        if not isinstance(value, int) or isinstance(value, bool):
            raise RemoteProtocolError(f"field {key!r}: an integer is needed")
        if not low <= value <= high:
            raise RemoteProtocolError(f"field {key!r}: {value} is not in {low}..{high}")
        return value

    def binary(self, key: str, low: int, high: int) -> bytes:
        """Raw bytes, ``low..high`` of them."""
        value = self._map.get(key)
        if not isinstance(value, bytes):
            raise RemoteProtocolError(f"field {key!r}: bytes are needed")
        if not low <= len(value) <= high:
            raise RemoteProtocolError(f"field {key!r}: {len(value)} bytes, not {low}..{high}")
        return value

    def text(self, key: str, max_length: int) -> str:
        """Text of at most ``max_length`` characters."""
        value = self._map.get(key)
        if not isinstance(value, str):
            raise RemoteProtocolError(f"field {key!r}: text is needed")
        if len(value) > max_length:
            raise RemoteProtocolError(f"field {key!r}: longer than {max_length} characters")
        return value

    def boolean(self, key: str) -> bool:
        """True or False."""
        value = self._map.get(key)
        if not isinstance(value, bool):
            raise RemoteProtocolError(f"field {key!r}: a boolean is needed")
        return value

    def binaries(self, key: str, max_count: int, low: int, high: int) -> list[bytes]:
        """A list of at most ``max_count`` byte strings of ``low..high`` bytes each."""
        value = self._map.get(key)
        if not isinstance(value, list) or len(value) > max_count:
            raise RemoteProtocolError(f"field {key!r}: a list of at most {max_count} is needed")
        for item in value:
            if not isinstance(item, bytes) or not low <= len(item) <= high:
                raise RemoteProtocolError(f"field {key!r}: items of {low}..{high} bytes are needed")
        return value

    def texts(self, key: str, max_count: int, max_length: int) -> list[str]:
        """A list of at most ``max_count`` texts of at most ``max_length`` characters each."""
        value = self._map.get(key)
        if not isinstance(value, list) or len(value) > max_count:
            raise RemoteProtocolError(f"field {key!r}: a list of at most {max_count} is needed")
        for item in value:
            if not isinstance(item, str) or len(item) > max_length:
                raise RemoteProtocolError(
                    f"field {key!r}: texts of at most {max_length} characters are needed"
                )
        return value

    def maps(self, key: str, max_count: int) -> list[Fields]:
        """A list of at most ``max_count`` maps."""
        value = self._map.get(key)
        if not isinstance(value, list) or len(value) > max_count:
            raise RemoteProtocolError(f"field {key!r}: a list of at most {max_count} is needed")
        if not all(isinstance(item, dict) for item in value):
            raise RemoteProtocolError(f"field {key!r}: maps are needed")
        return [Fields(item) for item in value]

    def map(self, key: str) -> Fields:
        """One map."""
        value = self._map.get(key)
        if not isinstance(value, dict):
            raise RemoteProtocolError(f"field {key!r}: a map is needed")
        return Fields(value)
