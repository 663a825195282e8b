"""How ``peatnet status`` looks: a line of counts, and a line for each node."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from peatnet.cli.output import human_size, human_time, safe, short_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

_STYLES = {
    "loaded": "bold green",
    "ready": "green",
    "downloading": "cyan",
    "pending": "yellow",
    "failed": "bold red",
    "unknown": "magenta",
}
_BAR_WIDTH = 16
# Below, reasons need the room more than peer ids, and below this one, more than bars.
_WIDE = 100
_WIDE_ENOUGH_FOR_BARS = 80
# Wide enough that nothing is folded where a script reads it.
_PIPE_WIDTH = 4096
# Of the screen: the summary, two heads, and what a reason may take besides.
_OTHER_LINES = 8
_MOST_LINES_OF_A_REASON = 10


def render(view: dict[str, Any]) -> str:
    """The picture as text: with colors on a terminal, plain elsewhere."""
    to_terminal = sys.stdout.isatty()
    console = Console(width=None if to_terminal else _PIPE_WIDTH, highlight=False)
    # Where it is drawn again and again, columns stand still; drawn once, none is kept free for a bar that is not there.
    bars = to_terminal and any(each["status"] == "downloading" for each in view["nodes"])
    with console.capture() as capture:
        console.print(_picture(view, console.width, bars=bars))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


@contextmanager
def live_view(*, stderr: bool = False) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A picture that changes in place, for the time of the block; gives the function that draws it anew.

    The last picture stays on the screen.
    """
    console = Console(highlight=False, stderr=stderr)
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:

        def show(view: dict[str, Any]) -> None:
            rows = max(1, console.height - _OTHER_LINES)
            live.update(_picture(view, console.width, bars=True, rows=rows), refresh=True)

        yield show


def _picture(
    view: dict[str, Any], width: int, *, bars: bool, rows: int | None = None
) -> RenderableType:
    nodes, with_ids = view["nodes"], width >= _WIDE
    bars = bars and width >= _WIDE_ENOUGH_FOR_BARS
    if rows is None or len(nodes) <= rows:
        return Group(_summary(view), Text(), _table(nodes, bars=bars, with_ids=with_ids))
    # Those that want looking at come last.
    hidden = Text(f"… {len(nodes) - rows} more above, which are better off", style="dim")
    return Group(
        _summary(view), Text(), hidden, _table(nodes[-rows:], bars=bars, with_ids=with_ids)
    )


def _summary(view: dict[str, Any]) -> Text:
    text = Text(safe(f"{view['model_id']}@{view['version']}"), style="bold")
    count = len(view["nodes"])
    text.append(f"  {count} node{'' if count == 1 else 's'}: ", style="not bold")
    counted = [(name, count) for name, count in view["counts"].items() if count]
    for index, (name, number) in enumerate(counted):
        text.append(", " if index else "", style="not bold")
        text.append(f"{number} {safe(name)}", style=f"not bold {_STYLES.get(name, 'default')}")
    text.append(_outlook(view), style="not bold")
    return text


def _outlook(view: dict[str, Any]) -> str:
    """When all will be done, in words; nothing where all are."""
    waiting = [
        each
        for each in view["nodes"]
        if each["expected"] and (each["eta_s"] is None or each["eta_s"] > 0)
    ]
    left = len(view["nodes"]) - len([each for each in view["nodes"] if each["expected"]])
    all_of_them = f"all but {left}" if left else "all"
    if not waiting:
        return f"; {all_of_them} done" if len(view["nodes"]) > left else ""
    if view["eta_s"] is None:
        return f"; when {all_of_them} are done is not known"
    return f"; {all_of_them} done in {human_time(view['eta_s'])}"


def _table(nodes: list[dict[str, Any]], *, bars: bool, with_ids: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("NODE", *(["PEER ID"] if with_ids else []), "STATUS"):
        table.add_column(head, no_wrap=True)
    table.add_column("PROGRESS", no_wrap=True, min_width=_BAR_WIDTH if bars else None)
    table.add_column("RATE", no_wrap=True, justify="right")
    table.add_column("LEFT", no_wrap=True, justify="right")
    table.add_column("WHY", overflow="fold")
    for node in nodes:
        name = node["status"]
        table.add_row(
            Text(safe(node["name"]), style="bold"),
            *([short_peer(safe(node["peer_id"]))] if with_ids else []),
            Text(safe(name), style=_STYLES.get(name, "default")),
            _progress(node, bars=bars),
            f"{human_size(node['rate'])}/s" if node["rate"] else "",
            human_time(node["eta_s"]) if node["eta_s"] else "",
            Text(_why(node)),
        )
    return table


def _progress(node: dict[str, Any], *, bars: bool) -> RenderableType:
    if node["status"] == "unknown" or not (node["progress"] or node["rate"]):
        return ""
    share = f"{int(node['progress'] * 100)}%"
    if not bars or node["status"] != "downloading":
        return share
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=_BAR_WIDTH - 5)
    grid.add_column(width=4, justify="right")
    grid.add_row(ProgressBar(1.0, node["progress"], width=_BAR_WIDTH - 5), share)
    return grid


def _why(node: dict[str, Any]) -> str:
    lines = safe(node["reason"] or "").splitlines()[:_MOST_LINES_OF_A_REASON]
    if node["serving"] is not None and node["status"] != "loaded":
        lines.append(f"in service there: {safe(node['serving'])}")
    return "\n".join(lines)
