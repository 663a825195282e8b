"""``peatnet fleet``: the nodes, what they have, and when they were last seen."""

from typing import Annotated, Any

import typer

from peatnet.cli.options import DataDir, Json, Verbose
from peatnet.cli.output import (
    human_time,
    note,
    plain,
    print_json,
    print_line,
    print_table,
    safe,
    short_peer,
)
from peatnet.cli.session import Session

# Of a node's models, these many are named.
_MODELS_SHOWN = 3

_HERE = ("ready", "loaded")


def fleet(
    ctx: typer.Context,
    *,
    forget: Annotated[
        str | None,
        typer.Option(
            "--forget",
            metavar="NODE",
            help="Forget a node that is no more: its name or its peer id.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the nodes that this one has ever heard of, itself first.

    A node tells the others how it is when something changes, and every 20 s; after 60 s without a word it is not seen.
    """
    session = Session(ctx, data_dir=data_dir, json=json, verbose=verbose)
    if forget is not None:
        forgotten = session.call("fleet_forget", {"node": forget})
        if session.json:
            print_json(forgotten)
        else:
            print_line(f"forgotten: {safe(forgotten['forgotten'])}")
        return
    rows = session.call("fleet")
    if session.json:
        print_json(rows)
        return
    print_table(
        ("NAME", "PEER ID", "SEEN", "HARDWARE", "MODELS", "ADDRESS"),
        [
            (
                f"[bold]{plain(row['name'])}[/]",
                short_peer(plain(row["peer_id"])),
                _seen(row),
                plain(_hardware(row["hardware"])),
                plain(_models(row["models"])),
                plain(_address(row["addrs"])),
            )
            for row in rows
        ],
        shrinking=[dict.fromkeys(("HARDWARE", "MODELS", "ADDRESS"), 1)],
    )
    if not session.node_is_running():
        note("no node is running here, so no other is heard: `peatnet up` runs one")


def _seen(row: dict[str, Any]) -> str:
    if row["banned"]:
        return "[red]banned here[/]"
    if not row["seen"]:
        return f"[yellow]not for {human_time(round(row['last_seen_s']))}[/]"
    return "[green]now[/]"


def _hardware(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    parts = [found["arch"], f"{found['ram_mb']} MB"]
    if found["vram_mb"]:
        parts.append(f"GPU {found['vram_mb']} MB")
    parts.append(f"{found['free_disk_mb'] / 1024:.0f} GB free")
    return ", ".join(parts)


def _models(found: list[dict[str, Any]]) -> str:
    here = [f"{each['model_id']}@{each['version']}" for each in found if each["status"] in _HERE]
    more = [f"{len(here) - _MODELS_SHOWN} more"] if len(here) > _MODELS_SHOWN else []
    others = len(found) - len(here)
    return ", ".join([*here[:_MODELS_SHOWN], *more, *([f"{others} not there"] if others else [])])


def _address(addrs: list[str]) -> str:
    # A node has several; whoever wants them all takes --json.
    return addrs[0].partition("/p2p/")[0] if addrs else ""
