"""Which columns of a table give way, and how far, where a terminal is too narrow for the whole of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.text import Text

GAP = 3
"""Between two columns."""

# Where there is not room for all: a letter more in a cell is worth more than a third blank.
NARROW_GAP = 2

Stage: TypeAlias = "Mapping[str, int]"
"""Heads of columns that give way together, the widest first, and how narrow each may become; 0: it is left out."""


def fit(
    widths: Mapping[str, int], room: int, stages: Sequence[Stage]
) -> tuple[dict[str, int], int]:
    """What each column may take of so much room, and the gap between two.

    Args:
        widths: what the columns would take, by their heads.
        room: of all together, gaps included.
        stages: one after the other, each as far as is needed. When they are not enough all columns give way,
            the widest first.
    """
    left = dict(widths)
    if _whole(left, GAP) <= room:
        return left, GAP
    for stage in (*stages, dict.fromkeys(widths, 1)):
        while _whole(left, NARROW_GAP) > room:
            able = [head for head, least in stage.items() if left[head] > least]
            if not able:
                break
            widest = max(able, key=left.__getitem__)
            left[widest] = left[widest] - 1 if stage[widest] else 0
    return left, NARROW_GAP


def _whole(widths: Mapping[str, int], gap: int) -> int:
    shown = [width for width in widths.values() if width]
    return sum(shown) + gap * (len(shown) - 1)


def cut(cell: Text, width: int, *, keep_end: bool = False) -> Text:
    """A cell, no wider than this; an ellipsis stands for what is missing, at its beginning where its end is kept."""
    if cell.cell_len <= width:
        return cell
    if not keep_end:
        cell.truncate(width, overflow="ellipsis")
        return cell
    while cell.cell_len >= width:
        cell = cell[1:]
    return cell.blank_copy("…").append_text(cell)
