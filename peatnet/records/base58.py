"""Base58 with the Bitcoin alphabet, as libp2p writes peer ids in text.

Source: draft-msporny-base58-03. Base58 is quadratic in its input, so only short inputs are taken.
"""

from __future__ import annotations

from peatnet.errors import UsageError

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
MAX_TEXT = 128  # characters; a peer id of an Ed25519 key has 52

_VALUES = {char: value for value, char in enumerate(ALPHABET)}


def base58_encode(data: bytes) -> str:
    """The base58 text of `data`; each leading zero byte becomes one ``1``."""
    zeros = len(data) - len(data.lstrip(b"\0"))
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(ALPHABET[digit])
    return ALPHABET[0] * zeros + "".join(reversed(digits))


def base58_decode(text: str) -> bytes:
    """The bytes that `text` stands for; every text stands for at most one byte string.

    Raises:
        UsageError: a character outside the alphabet, or more than `MAX_TEXT` characters.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"base58 text has {len(text)} characters, at most {MAX_TEXT} are taken")
    number = 0
    for char in text:
        value = _VALUES.get(char)
        if value is None:
            raise UsageError(f"base58 text holds {char!a}, which is not in its alphabet")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
