from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.blobs import Bitmap
from peatnet.errors import LocalProtocolError, RemoteProtocolError

OPERATIONS = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=60)


@settings(deadline=None)
@given(length=st.integers(1, 41), operations=OPERATIONS)
def test_behaves_as_a_set_of_indices(length: int, operations: list[tuple[bool, int]]) -> None:
    bitmap, model = Bitmap(length), set[int]()
    for is_set, wanted in operations:
        index = wanted % length
        if is_set:
            assert bitmap.set(index) == (index not in model)
            model.add(index)
        else:
            assert bitmap.clear(index) == (index in model)
            model.discard(index)
    assert list(bitmap.iter_set()) == sorted(model)
    assert list(bitmap.iter_missing()) == sorted(set(range(length)) - model)
    assert bitmap.count == len(model)
    assert bitmap.all() == (len(model) == length)
    assert [bitmap.get(index) for index in range(length)] == [i in model for i in range(length)]
    assert Bitmap.from_bytes(bitmap.to_bytes(), length) == bitmap
    assert Bitmap.from_bytes(bitmap.to_bytes(), length).count == len(model)


@settings(deadline=None)
@given(data=st.binary(max_size=6), length=st.integers(0, 40))
def test_from_bytes_takes_its_own_encoding_or_refuses(data: bytes, length: int) -> None:
    try:
        bitmap = Bitmap.from_bytes(data, length)
    except RemoteProtocolError:
        right_length = len(data) == (length + 7) // 8
        assert not right_length or int.from_bytes(data, "little") >> length
    else:
        assert bitmap.to_bytes() == data


def test_lowest_bit_of_a_byte_comes_first() -> None:
    bitmap = Bitmap(10)
    bitmap.set(0)
    bitmap.set(9)
    assert bitmap.to_bytes() == b"\x01\x02"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 64])
def test_full_has_every_bit_and_no_more(length: int) -> None:
    full = Bitmap.full(length)
    assert full.all()
    assert list(full.iter_set()) == list(range(length))
    assert Bitmap.from_bytes(full.to_bytes(), length) == full


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_is_our_mistake(index: int) -> None:
    with pytest.raises(LocalProtocolError):
        Bitmap(3).get(index)


def test_a_negative_length_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        Bitmap(-1)


def test_is_no_dict_key_and_differs_from_other_things() -> None:
    with pytest.raises(TypeError):
        hash(Bitmap(1))
    assert Bitmap(1) != b"\x00"
    assert repr(Bitmap(3)) == "<Bitmap 0 of 3>"
    assert len(Bitmap(3)) == 3
