"""What a node tells the others of update commands: how far those are that it follows, and why it does not follow others."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from peatnet.deploy.orders import Decision
from peatnet.log import get_logger
from peatnet.net.node_status import CommandOutcome, CommandReport
from peatnet.order_table import OrderState

if TYPE_CHECKING:
    from collections.abc import Callable

    from peatnet.deploy.orders import Directive, Judgment
    from peatnet.order_table import OrderEntry, OrderTable

_REPORTED: Final = {
    OrderState.BEGUN: CommandOutcome.WAITING,
    OrderState.ACTIVATING: CommandOutcome.RUNNING,
    OrderState.DONE: CommandOutcome.DONE,
    OrderState.FAILED: CommandOutcome.FAILED,
    OrderState.CANCELED: CommandOutcome.CANCELED,
}
# Of a command that was refused for one of these, it is no news that it is too old as well.
_REFUSED: Final = frozenset({Decision.UNFIT, Decision.SUPERSEDED})
_REFUSING: Final = _REFUSED | {Decision.OLDER, Decision.UNTRUSTED}
_STRANGE: Final = frozenset({Decision.UNTRUSTED, Decision.ELSEWHERE})

log = get_logger(__name__)


class Teller:
    """Tells of update commands.

    Args:
        table: what became of those that were followed here.
        tell: called with how far a command is.
    """

    def __init__(self, table: OrderTable, tell: Callable[[CommandReport], None]) -> None:
        self._table = table
        self._tell = tell
        self._judged: dict[Directive, Judgment] | None = None  # None: nothing was told yet

    def entry(self, entry: OrderEntry) -> None:
        """Tell what the table says of a command."""
        self._tell(_report(entry))

    def run(self, entry: OrderEntry, outcome: CommandOutcome, reason: str) -> None:
        """Tell how far a command is that is being carried out."""
        model = f"{entry.model_id}@{entry.version}"
        self._tell(CommandReport(entry.command_id, model, outcome, reason))

    def judged(self, judged: dict[Directive, Judgment]) -> None:
        """Log the decisions that are new, and tell why a command for this node is not followed.

        The first time, what became of commands in earlier runs of the node is told, too. The newest comes last, since those
        who hear of many keep the newest.
        """
        before, self._judged = self._judged, judged
        told = []
        if before is None:
            followed = {item.name for item, each in judged.items() if _follows(each)}
            # One that had begun and is not followed any more will come to no end by itself.
            told = [
                (entry.order, _report(entry))
                for entry in self._table.entries()
                if not entry.is_open or entry.name in followed
            ]
        ours = self._ours(judged)
        for item, judgment in judged.items():
            last = before.get(item) if before is not None else None
            if last == judgment:
                continue
            self._log(item, judgment, quiet=before is None, known=last is not None)
            refusal = self._refusal(item, judgment, last)
            # A stranger may give a command the id of one that counts, of which there is more to tell.
            strange = judgment.decision is Decision.UNTRUSTED
            if refusal is not None and not (strange and ours[item.command_id] - {item.name}):
                told.append((item.order, refusal))
        for _, report in sorted(told, key=lambda each: each[0]):
            self._tell(report)

    def _ours(self, judged: dict[Directive, Judgment]) -> dict[str, set[tuple[str, str, str]]]:
        """The commands of trusted publishers, and those that were followed here, by their ids."""
        names = {item.name for item, each in judged.items() if each.decision not in _STRANGE}
        names |= {entry.name for entry in self._table.entries()}
        found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        for name in names:
            found[name[2]].add(name)
        return found

    def _log(self, item: Directive, judgment: Judgment, *, quiet: bool, known: bool) -> None:
        # What was followed here has been told of; an old one that is heard for the first time is news.
        done = judgment.decision in {Decision.FINISHED, Decision.OLDER}
        dull = judgment.decision is Decision.ELSEWHERE or (done and known)
        note = log.debug if quiet or dull else log.info
        note(
            "command",
            model=item.model_id,
            command=item.command_id,
            by=item.publisher,
            decision=judgment.decision.value,
            reason=judgment.reason,
        )

    def _refusal(
        self, item: Directive, judgment: Judgment, last: Judgment | None
    ) -> CommandReport | None:
        """What is to be told of a command that is not followed; None: nothing, or nothing new."""
        if item.command is None or judgment.decision not in _REFUSING:
            return None
        entry = self._table.get(item)
        if entry is not None and entry.order == item.order and not entry.is_open:
            return None  # what was done stays done
        if judgment.decision is Decision.OLDER and (
            (last is not None and last.decision in _REFUSED) or self._table.may_have_forgotten(item)
        ):
            return None
        refused = CommandOutcome.REFUSED
        return CommandReport(item.command_id, item.command.manifest.key, refused, judgment.reason)


def _follows(judgment: Judgment) -> bool:
    return judgment.decision is Decision.FOLLOW


def _report(entry: OrderEntry) -> CommandReport:
    return CommandReport(
        entry.command_id,
        f"{entry.model_id}@{entry.version}",
        _REPORTED[entry.state],
        entry.reason,
    )
