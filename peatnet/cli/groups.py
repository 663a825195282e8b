"""How a list of verbs looks in ``--help``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

_OTHER = "Commands"


class GroupedVerbs(TyperGroup):
    """Lists the verbs under the headings that their ``rich_help_panel`` names, one uncut sentence each."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # click's shape
        """The verbs in the order in which they were registered, which older typers do not keep."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of verbs, section by section."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            verb: Any = self.get_command(ctx, name)
            panel = verb.rich_help_panel if isinstance(verb.rich_help_panel, str) else _OTHER
            sentence = (verb.help or "").split("\n\n")[0].replace("\n", " ")
            panels.setdefault(panel, []).append((name, sentence))
        for panel, verbs in panels.items():
            with formatter.section(panel):
                formatter.write_dl(verbs)
