"""``peatnet deploy``, ``rollback`` and ``cancel``: what is in service on the fleet."""

# ruff: noqa: PLC0415  # heavy modules are imported late: --help must answer at once

import sys
from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import counted, note, print_json, print_line
from peatnet.cli.session import Session
from peatnet.errors import UsageError

_Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[@VERSION]",
        help="A model; without a version, the one published last.",
        show_default=False,
    ),
]
_Rolled = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[@VERSION]",
        help="A model; without a version, the one that was deployed before the last.",
        show_default=False,
    ),
]
_To = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="NODE",
        help="Only this node, by its name or peer id; may be repeated. Otherwise all whose hardware fits.",
        show_default=False,
    ),
]
_Priority = Annotated[
    int,
    typer.Option("--priority", min=1, max=5, help="Of the fetch: 1 is the most urgent."),
]
_Wait = Annotated[bool, typer.Option("--wait", help="Wait until the nodes have done it.")]
_Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="S",
        min=0,
        help="With --wait: give up waiting after so many seconds.",
        show_default=False,
    ),
]


def deploy(
    ctx: typer.Context,
    model: _Model,
    *,
    to: _To = None,
    priority: _Priority = 3,
    no_load: Annotated[
        bool, typer.Option("--no-load", help="Only fetch it; put nothing into service.")
    ] = False,
    rollback: Annotated[
        str | None,
        typer.Option(
            "--rollback",
            metavar="MODEL[@VERSION]",
            help="Where it cannot be loaded, go back to this one. Otherwise to what was in service.",
            show_default=False,
        ),
    ] = None,
    wait: _Wait = False,
    timeout: _Timeout = None,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Have nodes fetch a model and put it into service, and print the command's id.

    Nodes that trust this node do it once, also those that are off now, when they are back. `peatnet status` shows how
    far they are, `peatnet cancel` stops what has not finished.
    """
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    params = {"reference": model, "to": to or [], "priority": priority, "load": not no_load}
    if rollback is not None:
        params["rollback"] = rollback
    _order(session, "deploy", params, wait=wait, timeout=timeout)


def rollback(
    ctx: typer.Context,
    model: _Rolled,
    *,
    to: _To = None,
    priority: _Priority = 3,
    wait: _Wait = False,
    timeout: _Timeout = None,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Have nodes put the version into service that was deployed before, or the one that is named.

    Rolled back twice, a model is where it was.
    """
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    params = {"reference": model, "to": to or [], "priority": priority}
    _order(session, "rollback", params, wait=wait, timeout=timeout)


def cancel(
    ctx: typer.Context,
    command_id: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND_ID",
            help="What `deploy` printed, or the beginning of it.",
            show_default=False,
        ),
    ],
    *,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Stop what has not finished of a `deploy` or `rollback` of this node. What was done stays done.

    A command that it had taken the place of before that was done counts again.
    """
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    answer = session.call("cancel", {"command_id": command_id})
    if session.json:
        print_json(answer)
    else:
        print_line(f"canceled: {answer['command_id']}")
    # An older node, whose command line was updated while it runs, does not say.
    if following := answer.get("next"):
        note(
            f"the command before it, {following['command_id']} ({following['model']}), counts again where it was not done; "
            "`peatnet cancel` takes that back as well"
        )
    if done := len(answer.get("done_on", ())):
        note(f"{counted(done, 'node has', 'nodes have')} done it already: nothing changes there")


def _order(
    session: Session, verb: str, params: dict[str, Any], *, wait: bool, timeout: float | None
) -> None:
    if timeout is not None and not wait:
        raise UsageError("--timeout goes with --wait")
    if wait and not session.node_is_running():
        raise UsageError(
            "--wait: no node is running here, so no other is heard",
            hint="`peatnet up` runs one; without --wait the command is signed, and told when it runs",
        )
    answer = session.call(verb, params)
    command_id = answer["command_id"]
    if not wait:
        note(f"command {command_id}: {answer['model']}")
        _print(session, answer, command_id)
        if not session.node_is_running():
            note("no node is running here: the others hear of it when `peatnet up` runs")
        return
    waiting: dict[str, Any] = {"command_id": command_id}
    if timeout is not None:
        waiting["timeout_s"] = timeout
    try:
        note(f"command {command_id}: {answer['model']}")
        done = _watch(session, waiting)
    except KeyboardInterrupt:
        note(f"the command goes on; `peatnet cancel {command_id}` stops it")
        raise
    _print(session, {"command_id": command_id, "nodes": done["nodes"]}, command_id)


def _watch(session: Session, params: dict[str, Any]) -> Any:
    if not sys.stderr.isatty():
        return session.call("await_command", params)
    from peatnet.cli.status_view import live_view

    with live_view(stderr=True) as show:
        return session.call("await_command", params, on_progress=show)


def _print(session: Session, answer: dict[str, Any], command_id: str) -> None:
    if session.json:
        print_json({name: answer[name] for name in ("command_id", "nodes") if name in answer})
    else:
        print_line(command_id)
