"""One run of the command: what the common options said, and the way to the node.

A verb makes its :class:`Session` first, then calls verbs of the control API through it; whether a running
node answers or this process opens the store itself is settled in ``peatnet.api``.
"""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from peatnet.cli.output import is_unicode, note

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peatnet.config import Config


@dataclass
class Invocation:
    """What the common options said, wherever on the line they stood; error reporting reads it too."""

    data_dir: Path | None = None
    json: bool = False
    verbose: bool = False


def _say_silent(at_most_s: float) -> None:
    note(f"the node has not answered yet; it is waited for up to {at_most_s:.0f} s")


class Session:
    """The common options of one verb's run, merged with those given before the verb."""

    def __init__(
        self,
        ctx: typer.Context,
        *,
        data_dir: Path | None = None,
        json: bool = False,
        verbose: bool = False,
    ) -> None:
        _check_texts(ctx)
        self.invocation = ctx.ensure_object(Invocation)
        self.invocation.data_dir = data_dir or self.invocation.data_dir
        self.invocation.json |= json
        self.invocation.verbose |= verbose

    @property
    def json(self) -> bool:
        """Whether data is to be printed as JSON."""
        return self.invocation.json

    @property
    def verbose(self) -> bool:
        """Whether debug logs and tracebacks are wanted."""
        return self.invocation.verbose

    @cached_property
    def config(self) -> Config:
        """The settings of the data directory that was chosen.

        Raises:
            ConfigError: config.toml cannot be used.
        """
        # Late: pydantic takes longer to import than all of --help takes.
        from peatnet.config import load_config

        return load_config(self.invocation.data_dir)

    def call(
        self,
        verb: str,
        params: dict[str, Any] | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Any:
        """Run one verb of the control API, in the running node if there is one, else in this process.

        Args:
            verb: its name in ``peatnet.api.verbs``.
            params: its parameters, as JSON values.
            on_progress: called now and then with what the verb says of its progress.

        Raises:
            PeatnetError: whatever the verb raised.
            KeyboardInterrupt: Ctrl-C; the verb was cancelled and cleaned up after itself.
        """
        from peatnet.api import call
        from peatnet.cli.logs import configure_logging

        configure_logging(verbose=self.verbose)
        new = not self.is_initialized()
        try:
            return call(
                self.config,
                verb,
                params or {},
                on_progress=on_progress,
                on_silence=_say_silent if sys.stderr.isatty() else None,
            )
        finally:
            if new and self.is_initialized():
                note(f"new node identity in {self.config.data_dir}")

    def is_initialized(self) -> bool:
        """Whether the data directory holds a node's identity."""
        try:
            return (self.config.data_dir / "identity.key").exists()
        except OSError:
            return False  # opening the data directory says what is wrong with it

    def node_is_running(self) -> bool:
        """Whether a node runs on the data directory."""
        from peatnet.api import node_is_running

        return node_is_running(self.config)


def _check_texts(ctx: typer.Context) -> None:
    """Refuse what was typed and is not UTF-8: a node takes JSON, and neither models nor their files are called so.

    The data directory alone never goes to a node; it may be called as it likes.

    Raises:
        BadParameter: with the option's or the argument's name.
    """
    params: list[Any] = ctx.command.params  # click's, or typer's own copies of them
    for param in params:
        given = ctx.params.get(param.name or "")
        for value in given if isinstance(given, list | tuple) else [given]:
            if param.name != "data_dir" and not is_unicode(text := str(value)):
                # Python keeps a byte that it cannot decode as a lone surrogate.
                shown = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
                raise typer.BadParameter(f"'{shown}' is not UTF-8", ctx=ctx, param=param)
