"""The publishing side of update commands: what an operator orders, as signed records."""

from __future__ import annotations

import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Final

from peatnet.errors import Ambiguous, NotFound, PeatnetError, UntrustedPublisher, UsageError
from peatnet.fetching import USUAL_PRIORITY
from peatnet.models import ModelUpdateCommand, Timestamp, parse_reference
from peatnet.records import (
    Cancellation,
    PeerId,
    RecordType,
    command_key,
    decode_command,
)
from peatnet.targets import is_same_file

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from peatnet.library import Library
    from peatnet.models import ModelManifest
    from peatnet.records import Record
    from peatnet.targets import Model

_SHORTEST_ID: Final = 6
"""Digits of a command id that name a command; fewer are a slip of the pen."""


class Commander:
    """Signs update commands, and takes them back.

    Args:
        library: the node's models and records.
        announce: tells the others of a record.
        find_node: the peer id of the node that a name means.
    """

    def __init__(
        self,
        library: Library,
        announce: Callable[[Record], Awaitable[None]],
        find_node: Callable[[str], str],
    ) -> None:
        self._library = library
        self._announce = announce
        self._find_node = find_node

    async def deploy(
        self,
        reference: str,
        *,
        to: Iterable[str] = (),
        priority: int = USUAL_PRIORITY,
        load: bool = True,
        rollback: str | None = None,
    ) -> ModelUpdateCommand:
        """Order a model to be fetched and put into service.

        Args:
            reference: which; without a version, the one published last.
            to: the nodes that it is for, by peer id or name; none: all whose hardware fits.
            priority: of the fetch, 1 (most urgent) to 5.
            load: whether it is put into service, or only fetched.
            rollback: the model to go back to where it cannot be loaded; None: what was in service.

        Raises:
            NotFound, Ambiguous, UsageError: as the references and names are.
            UntrustedPublisher: the model is of a publisher whom this node does not trust.
            DiskFull, StorageError: the command cannot be kept; nobody hears of it then.
        """
        if not 1 <= priority <= 5:
            raise UsageError(f"priority {priority}: 1 (most urgent) to 5 are meant")
        model = self._model(reference)
        if rollback is not None:
            self._model(rollback)
            rollback = str(parse_reference(rollback))
        return await self._order(
            model.manifest, to, priority=priority, load=load, rollback=rollback
        )

    async def rollback(
        self, reference: str, *, to: Iterable[str] = (), priority: int = USUAL_PRIORITY
    ) -> ModelUpdateCommand:
        """Order the version that was deployed before, or the one that is named, to be put into service again.

        Which was before is told by the commands of trusted publishers, else by what was in service on this node.
        Rolled back twice, a model is where it was.

        Raises:
            NotFound: there is none before, or it was withdrawn, or another file has its version now.
            UntrustedPublisher: as for `deploy`.
            Ambiguous, UsageError, DiskFull, StorageError: as for `deploy`.
        """
        named = parse_reference(reference)
        if named.version is not None:
            return await self.deploy(reference, to=to, priority=priority)
        return await self._order(self._before(named.model_id), to, priority=priority)

    async def command(self, command: ModelUpdateCommand) -> None:
        """Sign an update command and tell the others. What nodes do on one is theirs to decide.

        Raises:
            InvalidManifest: the command breaks a rule.
            DiskFull, StorageError: it cannot be kept.
        """
        model_id = command.manifest.model_id
        await self._sign(RecordType.COMMAND, model_id, str(command.command_id), command.to_json())

    def commands(self) -> list[ModelUpdateCommand]:
        """The update commands of trusted publishers that are not canceled, oldest first."""
        return [
            decode_command(record)
            for record in self._records()
            if record.type is RecordType.COMMAND
        ]

    async def cancel(self, command_id: str, *, reason: str = "") -> str:
        """Take a command of this node back: what has not finished of it is stopped, on all nodes.

        Args:
            command_id: the command's, or the beginning of it.
            reason: one line, for people.

        Returns:
            The whole id. A command that is canceled already stays so.

        Raises:
            NotFound: there is no such command of this node.
            Ambiguous: several begin so.
            UsageError: another node gave it, or the beginning is too short.
            DiskFull, StorageError: it cannot be kept; nobody hears of it then.
        """
        record = self._find(command_id)
        if str(record.publisher) != self._library.identity.peer_id:
            raise UsageError(
                f"command {command_id} was given by {record.publisher}: only that node can cancel it"
            )
        whole = _command_id(record)
        if record.type is RecordType.COMMAND:
            body = Cancellation(command_id=whole, model_id=record.model_id, reason=reason)
            await self._sign(RecordType.CANCELLATION, record.model_id, whole, body.to_json())
        return whole

    def in_place_of(self, command_id: str) -> ModelUpdateCommand | None:
        """The command that counts for a model now that this one is canceled, whoever of the trusted publishers gave it.

        Raises:
            NotFound, Ambiguous, UsageError: as for `cancel`.
        """
        model_id = self._find(command_id).model_id
        left = [each for each in self.commands() if each.manifest.model_id == model_id]
        return left[-1] if left else None

    def find(self, command_id: str) -> ModelUpdateCommand:
        """The command of a trusted publisher that has this id, or whose id alone begins so.

        Raises:
            NotFound: there is none, or it is canceled.
            Ambiguous: several begin so.
            UsageError: the beginning is too short.
        """
        record = self._find(command_id)
        if record.type is not RecordType.COMMAND:
            raise NotFound(f"command {command_id} is canceled")
        return decode_command(record)

    def _find(self, command_id: str) -> Record:
        if len(command_id) < _SHORTEST_ID:
            raise UsageError(
                f"{command_id!r}: at least {_SHORTEST_ID} characters of a command's id are needed",
                hint="`peatnet deploy` prints the id",
            )
        found = [each for each in self._records() if _command_id(each).startswith(command_id)]
        found = [each for each in found if _command_id(each) == command_id] or found
        own = self._library.identity.peer_id
        found = [each for each in found if str(each.publisher) == own] or found
        if not found:
            raise NotFound(
                f"no command {command_id!r} is known here", hint="`peatnet deploy` prints the id"
            )
        if len(found) > 1:
            raise Ambiguous(f"{len(found)} commands begin with {command_id}", hint="give all of it")
        return found[0]

    # How

    def _model(self, reference: str) -> Model:
        model = self._library.find(reference).model
        if model is None:
            raise NotFound(f"{reference} is a blob without a manifest", hint="name a model")
        if not model.trusted:
            raise UntrustedPublisher(
                f"{model} was published by {model.publisher}, whom this node does not trust",
                hint=f"`peatnet trust add {model.publisher}`, if you do",
            )
        return model

    def _before(self, model_id: str) -> ModelManifest:
        """What was in service before the one that is there now, as far as is known here: that very file.

        Raises:
            NotFound: nothing was, or it was withdrawn, or replaced by another file under the same version.
            UntrustedPublisher: only publishers whom this node does not trust have it.
        """
        manifests = [
            command.manifest
            for command in self.commands()
            if command.manifest.model_id == model_id and command.auto_load
        ]
        now = manifests[-1] if manifests else None
        for manifest in reversed(manifests):
            if manifest.key != manifests[-1].key or not is_same_file(manifest, manifests[-1]):
                self._counting(manifest.key, partial(_is_file_of, manifest))
                return manifest
        current = self._library.activator.current(model_id)
        previous = self._library.activator.previous(model_id)
        here = [(each.version, each.blob) for each in (current, previous) if each is not None]
        newest = (now.version, now.blob_hash) if now is not None else here[0] if here else None
        for version, blob in here:
            if newest is not None and (version != newest[0] or _differ(blob, newest[1])):
                key = f"{model_id}@{version}"
                return self._counting(key, partial(self._has_blob, blob)).manifest
        if newest is None:
            self._model(model_id)  # says why, where it is not even known
        raise NotFound(
            f"no version of {model_id} is known that was deployed before",
            hint=f"name it: `peatnet rollback {model_id}@VERSION`",
        )

    def _has_blob(self, blob: str | None, model: Model) -> bool:
        named = self._library.blob_of(model)
        return not _differ(blob, None if named is None else named.hex())

    def _counting(self, key: str, is_meant: Callable[[Model], bool]) -> Model:
        """A trusted publisher's model of this name and version that counts still, and is meant."""
        trusted = [each for each in self._library.models() if each.trusted and str(each) == key]
        if not trusted:
            self._model(key)  # says why
        for model in trusted:
            if is_meant(model):
                return model
        raise NotFound(
            f"the file of {key} that was deployed before was replaced by another under the same version",
            hint=f"`peatnet rollback {key}` takes the file that has this version now",
        )

    async def _order(
        self,
        manifest: ModelManifest,
        to: Iterable[str],
        *,
        priority: int,
        load: bool = True,
        rollback: str | None = None,
    ) -> ModelUpdateCommand:
        command = ModelUpdateCommand(
            command_id=str(uuid.uuid4()),
            manifest=manifest,
            target_nodes=tuple(dict.fromkeys(map(self._node, to))),
            priority=priority,
            auto_load=load,
            rollback_model_id=rollback,
            timestamp=Timestamp.from_unix_ns(time.time_ns()),
        )
        await self.command(command)
        return command

    def _node(self, text: str) -> str:
        try:
            # One that was never seen, too.
            return str(PeerId.parse(text))
        except PeatnetError:
            return self._find_node(text)

    async def _sign(
        self, record_type: RecordType, model_id: str, command_id: str, body: str
    ) -> None:
        above = max(
            (record.sequence for record in self._records() if record.model_id == model_id),
            default=-1,
        )
        record = await self._library.ledger.sign(
            record_type, command_key(model_id, command_id), body, above=above
        )
        await self._announce(record)

    def _records(self) -> list[Record]:
        """The commands and cancellations of trusted publishers, oldest first."""
        ledger = self._library.ledger
        return sorted(
            (
                record
                for record in ledger.catalogue.commands()
                if ledger.is_trusted(str(record.publisher))
            ),
            key=lambda record: record.order,
        )


def _command_id(record: Record) -> str:
    return record.key.partition("/")[2]


def _is_file_of(manifest: ModelManifest, model: Model) -> bool:
    return is_same_file(model.manifest, manifest)


def _differ(one: str | None, other: str | None) -> bool:
    """Whether two blobs are surely not the same."""
    return one is not None and other is not None and one != other
