"""Progress on a terminal: one bar for hashing, a bar with sources for fetching. Elsewhere: silence."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from peatnet.cli.output import human_size, human_time, short_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import RenderableType

# More sources than this are summed up: the line must stay one line.
_SOURCES_SHOWN = 4

# A whole hash would push the bar off the line.
_LABEL_CHARS = 32


class _Bar(Progress):
    """A progress bar with a line below it that says where the bytes come from."""

    sources = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.sources:
            yield Text(f"  from {self.sources}", style="dim", no_wrap=True, overflow="ellipsis")


@contextmanager
def fetch_bar(label: str) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """A bar for ``get``; gives the callback to feed with ``Progress`` objects, or None without a terminal."""
    with _bar("[bold]{task.description}", "{task.fields[speed]}") as bar:
        if bar is None:
            yield None
            return
        task = bar.add_task(
            escape(_short(label)), total=None, amount="", speed="looking for sources"
        )

        def update(progress: dict[str, Any]) -> None:
            if (copied := progress.get("copied_bytes")) is not None:
                amount = _amount(copied, progress["size_bytes"])
                total = progress["size_bytes"]
                bar.update(task, completed=copied, total=total, amount=amount, speed="copying")
                return
            rate, left = progress["rate"], progress["eta_s"]
            speed = f"{human_size(rate)}/s" if rate else ""
            if left is not None and rate:
                speed += f", {human_time(left)} left"
            bar.sources = describe_sources(progress["bytes_by_source"])
            verified, size = progress["verified_bytes"], progress["size_bytes"]
            # Older nodes do not say what they have received.
            received = max(verified, progress.get("received_bytes", 0))
            amount = _amount(received, size)
            if received > verified:
                amount += ", unverified"
            bar.update(task, completed=received, total=size, amount=amount, speed=speed)

        yield update


@contextmanager
def hash_bar(
    label: str, doing: str = "hashing"
) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """A bar for ``publish`` and ``verify``; gives the callback to feed, or None without a terminal."""
    with _bar("[bold]{task.description}", doing) as bar:
        if bar is None:
            yield None
            return
        task = bar.add_task(escape(_short(label)), total=None, amount="")

        def update(progress: dict[str, Any]) -> None:
            done, size = progress["hashed_bytes"], progress["size_bytes"]
            bar.update(task, completed=done, total=size, amount=_amount(done, size))

        yield update


class FilesBar:
    """How far ``publish`` is with many files; without a terminal it does nothing.

    Args:
        bar: where it is shown.
        files: how many there are.
        size: bytes of all of them.
    """

    def __init__(self, bar: Progress | None, files: int, size: int) -> None:
        self._bar = bar
        self._files = files
        self._done = 0
        self._size = 0
        self._task = bar.add_task("publishing", total=size, amount="") if bar is not None else None

    @property
    def on_progress(self) -> Callable[[dict[str, Any]], None] | None:
        """What takes the verb's words of progress; None without a terminal."""
        return self._hashed if self._bar is not None else None

    def done(self, files: int, size: int) -> None:
        """So many more files, of so many bytes together, have been seen to."""
        self._done += files
        self._size += size
        self._hashed({"hashed_bytes": 0})

    def _hashed(self, progress: dict[str, Any]) -> None:
        if self._bar is not None and self._task is not None:
            amount = f"{self._done:,} of {self._files:,} files"
            completed = self._size + progress["hashed_bytes"]
            self._bar.update(self._task, completed=completed, amount=amount)


@contextmanager
def files_bar(files: int, size: int) -> Iterator[FilesBar]:
    """A bar for ``publish`` of so many files, of so many bytes together. Lines may be printed meanwhile."""
    with _bar("[bold]{task.description}", "") as bar:
        yield FilesBar(bar, files, size)


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_CHARS else f"{label[: _LABEL_CHARS - 1]}…"


def _amount(done: int, size: int) -> str:
    return f"{human_size(done)} of {human_size(size)}" if size else ""


def describe_sources(bytes_by_source: dict[str, int]) -> str:
    """``…abc 60%, http:example.org 40%``: the sources with their share of the bytes, largest first."""
    total = sum(bytes_by_source.values())
    if not total:
        return ""
    ranked = sorted(bytes_by_source.items(), key=lambda item: -item[1])
    shown = [
        f"{short_source(name)} {size / total:.0%}" for name, size in ranked[:_SOURCES_SHOWN] if size
    ]
    if len(ranked) > _SOURCES_SHOWN:
        rest = sum(size for _, size in ranked[_SOURCES_SHOWN:])
        shown.append(f"{len(ranked) - _SOURCES_SHOWN} more {rest / total:.0%}")
    return ", ".join(shown)


@contextmanager
def _bar(first: str, last: str) -> Iterator[_Bar | None]:
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn(first),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}", table_column=Column(no_wrap=True)),
        TextColumn(last, table_column=Column(no_wrap=True)),
    )
    # What is printed meanwhile goes above the bar, but where stdout is not the terminal it stays stdout.
    with _Bar(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        yield bar
