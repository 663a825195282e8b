"""The command line's shape: global options, the verbs and their order, and what ends a run.

Every error passes through :func:`main`, which turns it into a message and an exit code; verbs just raise.
"""

import errno
import sys
from typing import Annotated

import typer

from peatnet import __version__
from peatnet.cli import (
    demo,
    deploy,
    fleet,
    gc,
    get,
    hardware,
    init,
    inspect,
    limits,
    models,
    peers,
    pin,
    publish,
    rm,
    schema,
    show,
    status,
    trust,
    up,
    verify,
    withdraw,
)
from peatnet.cli.errors import EXIT_INTERRUPTED, find_error, report, report_bug
from peatnet.cli.groups import GroupedVerbs
from peatnet.cli.options import DataDir, Verbose
from peatnet.cli.output import EXIT_BROKEN_PIPE, ReaderGone, abandon_stdout
from peatnet.cli.session import Invocation, Session
from peatnet.cli.surroundings import ended_by_signals, prepare_streams
from peatnet.errors import DiskFull, PeatnetError, UsageError

# What a print fails with where there is no room for what it prints.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Typer exports BadParameter but not the classes above it; all of its usage errors share this one, which
# is click's (typer 0.12 to 0.2x) or typer's own copy of it (later).
_ParseError: type[Exception] = typer.BadParameter.__mro__[1]


app = typer.Typer(
    name="peatnet",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    rich_markup_mode=None,  # rich help takes 0.15 s to import, more than all the rest
    cls=GroupedVerbs,
)

_MODELS, _FLEET, _NODE, _STORE, _MORE = "Models", "The fleet", "This node", "The store", "More"

app.command("publish", rich_help_panel=_MODELS)(publish.publish)
app.command("inspect", rich_help_panel=_MODELS)(inspect.inspect)
app.command("models", rich_help_panel=_MODELS)(models.models)
app.command("show", rich_help_panel=_MODELS)(show.show)
app.command("get", rich_help_panel=_MODELS)(get.get)
app.command("withdraw", rich_help_panel=_MODELS)(withdraw.withdraw)
app.command("deploy", rich_help_panel=_FLEET)(deploy.deploy)
app.command("rollback", rich_help_panel=_FLEET)(deploy.rollback)
app.command("cancel", rich_help_panel=_FLEET)(deploy.cancel)
app.command("fleet", rich_help_panel=_FLEET)(fleet.fleet)
app.command("status", rich_help_panel=_FLEET)(status.status)
app.command("init", rich_help_panel=_NODE)(init.init)
app.command("id", rich_help_panel=_NODE)(init.show_id)
app.command("up", rich_help_panel=_NODE)(up.up)
app.command("hardware", rich_help_panel=_NODE)(hardware.hardware)
app.command("peers", rich_help_panel=_NODE)(peers.peers)
app.command("limits", rich_help_panel=_NODE)(limits.limits)
app.add_typer(trust.app, name="trust", rich_help_panel=_NODE)
app.command("pin", rich_help_panel=_STORE)(pin.pin)
app.command("unpin", rich_help_panel=_STORE)(pin.unpin)
app.command("rm", rich_help_panel=_STORE)(rm.rm)
app.command("verify", rich_help_panel=_STORE)(verify.verify)
app.command("gc", rich_help_panel=_STORE)(gc.gc)
app.command("schema", rich_help_panel=_MORE)(schema.schema)
app.command("demo", rich_help_panel=_MORE)(demo.demo)


def _print_version(*, value: bool) -> None:
    if value:
        typer.echo(f"peatnet {__version__}")
        raise typer.Exit


@app.callback()
def peatnet(
    ctx: typer.Context,
    *,
    data_dir: DataDir = None,
    verbose: Verbose = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Share AI models between machines, peer to peer.

    Run a node on each machine with `peatnet up`, publish a model file on one of them, and get it on the others:
    by content hash, from every machine that has some of it, verified.
    """
    Session(ctx, data_dir=data_dir, verbose=verbose)
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main() -> int:
    """Run the command that ``sys.argv`` holds.

    Returns:
        The exit code: 0, the code of the error's class, or one of those in docs/exit-codes.md.
    """
    invocation = Invocation()
    prepare_streams()
    try:
        with ended_by_signals():
            # Outside its standalone mode typer returns what typer.Exit carried, and raises all else.
            code = typer.main.get_command(app)(
                prog_name="peatnet", standalone_mode=False, obj=invocation
            )
            sys.stdout.flush()
    except (ReaderGone, BrokenPipeError, SystemExit):
        # Typer makes a SystemExit of a BrokenPipeError, and in this mode of nothing else.
        abandon_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as exc:  # noqa: BLE001  # the last line of defense: a bug ends in a sentence
        return _report(exc, invocation)
    return code if isinstance(code, int) else 0


def _report(exc: Exception, invocation: Invocation) -> int:
    error = find_error(exc)
    if isinstance(error, _ParseError):
        return report(_usage_error(error), as_json="--json" in sys.argv)
    if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
        # Not the store, which says so itself.
        abandon_stdout()
        words = f"the output cannot be written: {error.strerror}"
        error = DiskFull(words, hint="make room where it goes, or send it elsewhere")
    if isinstance(error, PeatnetError):
        return report(error, as_json=invocation.json, verbose=invocation.verbose)
    return report_bug(exc, error, verbose=invocation.verbose)


def _usage_error(error: Exception) -> UsageError:
    context = getattr(error, "ctx", None)
    path = "peatnet" if context is None else context.command_path
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    # Newer typers put pydantic's words before their own, or in the place of them.
    text = text.rstrip(".").replace("Value error, ", "").replace("Input should be ", "must be ")
    return UsageError(text, hint=f"see `{path} --help`")
