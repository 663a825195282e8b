"""The ``peatnet`` command: one module a verb, all of them thin.

A verb reads its options, asks a running node or the store for one thing through ``peatnet.api``, and shows it.
What a verb needs beyond typer is imported in its body, so that ``peatnet --help`` answers at once.
"""

from __future__ import annotations

from peatnet.cli.app import main

__all__ = ["main"]
