"""What the demo shows: on a terminal a table that moves, elsewhere a line for each step; a table at the end."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from peatnet.cli.output import counted, human_size, note, print_line, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peatnet.cli.demo_nodes import DemoNode

_BAR_WIDTH = 30
_STATE_STYLE = {"done": "green", "serving": "green", "fetching": "cyan", "failed": "red"}


@contextmanager
def demo_view(nodes: list[DemoNode]) -> Iterator[Callable[[], None]]:
    """Show the nodes for the time of the block; gives the function that draws them as they are now."""
    if not sys.stderr.isatty():
        yield _Steps(nodes).tell
        return
    console = Console(stderr=True)
    with Live(_table(nodes), console=console, auto_refresh=False, transient=True) as live:
        yield lambda: live.update(_table(nodes), refresh=True)


class _Steps:
    """Says each node's new state once."""

    def __init__(self, nodes: list[DemoNode]) -> None:
        self._nodes = nodes
        self._told: dict[str, str] = {}

    def tell(self) -> None:
        for node in self._nodes:
            if self._told.get(node.name) != node.state:
                self._told[node.name] = node.state
                note(f"{node.name}: {node.state}")


def _table(nodes: list[DemoNode]) -> Table:
    names = {f"peer:{node.peer_id}": node.name for node in nodes if node.peer_id}
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for head in ("NODE", "STATE", "VERIFIED", "RATE", "FROM"):
        # What may wrap gives way first where a terminal is narrow: the bar gets shorter, the list of sources is cut.
        table.add_column(head, no_wrap=head not in {"VERIFIED", "FROM"})
    for node in nodes:
        late = " (late)" if node.late else ""
        style = _STATE_STYLE.get(node.state, "dim")
        cells = [f"{node.name}{late}", f"[{style}]{node.state}[/]"]
        if node.progress is not None:
            done, size = node.progress["verified_bytes"], node.progress["size_bytes"]
            if node.result is not None:
                done = size
            rate = f"{human_size(node.progress['rate'])}/s" if node.state == "fetching" else ""
            sources = (node.result or node.progress)["bytes_by_source"]
            bar = Constrain(ProgressBar(size, done), _BAR_WIDTH)
            table.add_row(*cells, bar, rate, _sources(sources, names))
        else:
            table.add_row(*cells, "", "", "")
    return table


def _sources(bytes_by_source: dict[str, int], names: dict[str, str]) -> Text:
    told = ", ".join(
        f"{names.get(source, source)} {human_size(size)}"
        for source, size in sorted(bytes_by_source.items(), key=lambda item: -item[1])
        if size
    )
    return Text(told, no_wrap=True, overflow="ellipsis")


def print_results(rows: list[dict[str, Any]]) -> None:
    """The demo's outcome, on stdout."""
    sources = list(dict.fromkeys(source for row in rows for source in row["bytes_by_source"]))
    sources.sort(key=lambda name: (name != "publisher", name))
    heads = ("NODE", "SECONDS", *(f"FROM {name.upper()}" for name in sources), "HASH VERIFIED")
    print_table(
        heads,
        [
            (
                row["node"] + (" (late)" if row["joined_late"] else ""),
                f"{row['seconds']:.2f}",
                *(_cell(row["bytes_by_source"].get(name, 0)) for name in sources),
                "[green]yes[/]" if row["verified"] else "[bold red]NO[/]",
            )
            for row in rows
        ],
        right=",".join(heads[1:-1]),
    )
    size = human_size(rows[0]["size_bytes"])
    copies = counted(len(rows), "copy", "copies")
    print_line(f"\n{copies} of {size}, all with BLAKE3 {rows[0]['blob_hash']}")


def _cell(size: int) -> str:
    return human_size(size) if size else "-"
