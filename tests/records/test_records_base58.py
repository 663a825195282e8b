from __future__ import annotations

import base58
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import UsageError
from peatnet.records.base58 import ALPHABET, MAX_TEXT, base58_decode, base58_encode


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_agrees_with_the_base58_package(data: bytes) -> None:
    text = base58_encode(data)
    assert text == base58.b58encode(data).decode()
    assert base58_decode(text) == data


@given(st.text(ALPHABET, max_size=60))
@settings(deadline=None)
def test_every_text_is_the_only_one_for_its_bytes(text: str) -> None:
    assert base58_encode(base58_decode(text)) == text


@pytest.mark.parametrize("text", ["0", "O", "I", "l", " ", "12D3\n", "é", "1" * (MAX_TEXT + 1)])
def test_refuses_what_is_not_base58(text: str) -> None:
    with pytest.raises(UsageError):
        base58_decode(text)
