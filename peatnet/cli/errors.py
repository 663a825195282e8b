"""How an error looks and what the command ends with. docs/exit-codes.md lists the codes."""

from __future__ import annotations

import os
import sys
import traceback

from peatnet.cli.output import json_text, safe
from peatnet.errors import PeatnetError

EXIT_BUG = 70  # sysexits.h: EX_SOFTWARE
EXIT_INTERRUPTED = 130  # what shells report after SIGINT


def report(error: PeatnetError, *, as_json: bool, verbose: bool = False) -> int:
    """Say on stderr what went wrong and what to do about it.

    With ``as_json`` the last line is one JSON object that says the same to a script.

    Returns:
        The exit code of the error's class.
    """
    if verbose:
        traceback.print_exception(error)
    _line(f"{_style('error:', '1;31')} {safe(error.message)}")
    if error.hint:
        _line(f"{_style('hint:', '2')}  {safe(error.hint)}")
    if as_json:
        fields = {**error.fields(), "exit_code": error.exit_code}
        _line(json_text({"error": fields}, sys.stderr))
    return error.exit_code


def report_bug(caught: BaseException, error: BaseException, *, verbose: bool) -> int:
    """Say that peatnet itself is at fault; the traceback comes with ``-v``.

    Args:
        caught: what the traceback is made of.
        error: the one exception in it to talk about.
        verbose: show the traceback.

    Returns:
        The exit code for bugs.
    """
    if verbose:
        traceback.print_exception(caught)
    _line(f"{_style('error:', '1;31')} {type(error).__name__}: {safe(str(error))}")
    advice = (
        "please report it" if verbose else "run the command again with -v and report what it says"
    )
    _line(f"{_style('hint:', '2')}  this is a bug in peatnet: {advice}")
    return EXIT_BUG


def find_error(error: BaseException) -> BaseException:
    """The one exception to talk about in nested exception groups: the first peatnet error, else the first."""
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, PeatnetError)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for child in error.exceptions for leaf in _leaves(child)]
    return [error]


def _line(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # stderr is gone; the exit code still speaks


def _style(text: str, code: str) -> str:
    colored = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    return f"\x1b[{code}m{text}\x1b[0m" if colored else text
