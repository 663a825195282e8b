"""docs/exit-codes.md and peatnet/errors.py say the same."""

from __future__ import annotations

import re
from pathlib import Path

from peatnet.cli.errors import EXIT_BUG, EXIT_INTERRUPTED
from peatnet.cli.output import EXIT_BROKEN_PIPE
from peatnet.errors import IntegrityError, error_classes

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "exit-codes.md"
_ROW = re.compile(r"^\| (\d+) \| `([a-z-]+)` \| `(\w+)` \| (.+) \|$", re.MULTILINE)
_OTHER_ROW = re.compile(r"^\| (\d+) \| [^`|]", re.MULTILINE)


def test_every_error_class_is_listed_with_its_code_slug_and_meaning() -> None:
    listed = [
        (int(code), slug, name, meaning)
        for code, slug, name, meaning in _ROW.findall(DOCUMENT.read_text())
    ]
    defined = [
        (cls.exit_code, slug, cls.__name__, (cls.__doc__ or "").strip().splitlines()[0])
        for slug, cls in error_classes().items()
    ]
    assert listed == sorted(defined)


def test_one_without_a_slug_of_its_own_counts_as_what_it_derives_from() -> None:
    class Special(IntegrityError):
        """Nobody outside needs to tell it apart."""

    assert Special.slug == "integrity"
    assert error_classes()["integrity"] is IntegrityError


def test_no_two_errors_share_a_code_and_none_takes_a_reserved_one() -> None:
    codes = [cls.exit_code for cls in error_classes().values()]
    assert len(set(codes)) == len(codes)
    reserved = {int(code) for code in _OTHER_ROW.findall(DOCUMENT.read_text())}
    assert reserved == {0, EXIT_BUG, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE}
    assert not reserved & set(codes)
