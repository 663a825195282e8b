"""Waiting for an update command to be carried out, as far as this node can see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from peatnet.deploy.rollout import Stage
from peatnet.errors import DeployFailed, DeployTimeout
from peatnet.net.node_status import CommandOutcome
from peatnet.views import CommandNodeView, CommandView

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.lookout import Lookout
    from peatnet.models import ModelUpdateCommand
    from peatnet.views import RolloutView

_ENDED: Final = frozenset(
    {
        CommandOutcome.DONE,
        CommandOutcome.FAILED,
        CommandOutcome.REFUSED,
        CommandOutcome.CANCELED,
    }
)
_NAMED: Final = 4


async def await_command(
    lookout: Lookout,
    command: ModelUpdateCommand,
    report: Callable[[RolloutView], None],
    *,
    timeout_s: float | None = None,
) -> CommandView:
    """Wait until every node that a command is for has come to an end with it.

    For a command without targets these are the nodes that are seen; one that refuses it because it does not fit is no
    failure. Of a command with targets, all of them are waited for.

    Args:
        lookout: the fleet.
        command: which.
        report: called with where the model stands, again and again.
        timeout_s: seconds after which to give up; None: never. The command goes on in any case.

    Raises:
        DeployFailed: it failed, was canceled, or was refused where it should not, on some node.
        DeployTimeout: some had not come to an end in time.
        NotFound: the model was withdrawn meanwhile.
    """
    reference = command.manifest.key
    last: RolloutView | None = None

    def seen(view: RolloutView) -> None:
        nonlocal last
        last = view
        report(view)

    def ended(view: RolloutView) -> bool:
        return all(
            each.outcome in _ENDED for each in _view(lookout, command, view).nodes if each.awaited
        )

    with trio.move_on_after(float("inf") if timeout_s is None else timeout_s) as limit:
        await lookout.watch(reference, seen, ended)
    view = last or await lookout.status(reference)
    found = _view(lookout, command, view)
    failed = [each for each in found.nodes if each.outcome in _failures(command)]
    missing = [each for each in found.nodes if each.awaited and each.outcome not in _ENDED]
    if failed:
        first = failed[0]
        raise DeployFailed(
            f"{reference} is not in service on {_listed(failed)}: {first.outcome}"
            + (f": {first.reason}" if first.reason else "")
            + (f"; {_listed(missing)} had not done it within {timeout_s:g} s" if missing else ""),
            hint=f"`peatnet status {reference}` shows every node",
        )
    if limit.cancelled_caught:
        raise DeployTimeout(
            f"{reference}: {_listed(missing)} had not done it within {timeout_s:g} s",
            hint=f"it goes on; `peatnet status {reference} --watch` shows how, "
            f"`peatnet cancel {command.command_id}` stops it",
        )
    return found


def _failures(command: ModelUpdateCommand) -> set[str]:
    failures = {CommandOutcome.FAILED, CommandOutcome.CANCELED}
    return failures | ({CommandOutcome.REFUSED} if command.target_nodes else set())


def _view(lookout: Lookout, command: ModelUpdateCommand, view: RolloutView) -> CommandView:
    """What became of a command on the nodes that it is for."""
    outcomes = lookout.outcomes(str(command.command_id))
    names = {each.peer_id: each.name for each in view.nodes}
    unseen = {each.peer_id for each in view.nodes if each.status == Stage.UNKNOWN}
    targets = command.target_nodes or tuple(names)
    nodes = []
    for peer_id in targets:
        told = outcomes.get(peer_id)
        nodes.append(
            CommandNodeView(
                peer_id=peer_id,
                name=names.get(peer_id, ""),
                outcome=told.outcome.value if told else None,
                reason=(told.reason or None) if told else None,
                awaited=bool(command.target_nodes) or peer_id not in unseen,
            )
        )
    return CommandView(str(command.command_id), nodes)


def _listed(nodes: list[CommandNodeView]) -> str:
    names = [each.name or each.peer_id for each in nodes]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
