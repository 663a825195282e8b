"""What the bodies of records say, read against the record's own key.

A signature only says who wrote a record. A body that is about another thing than the record's key would put
one model's manifest into another model's slot, so every decoder compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from peatnet.errors import InvalidManifest, LocalProtocolError
from peatnet.models import ModelManifest, ModelUpdateCommand, fields
from peatnet.models.base import Strict
from peatnet.records.record import Record, RecordType

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_WITHDRAWAL = 8 * 1024  # bytes of JSON; of a cancellation, too


class Withdrawal(Strict):
    """A publisher's word that a model version is not to be used any more. Immutable.

    Read from JSON, unknown fields are ignored and `reason` may be missing.

    Args:
        model_id: the model.
        version: the version of it that is withdrawn.
        reason: one line, why, for people to read; may be empty.

    Raises:
        InvalidManifest: a field (named) breaks a rule.
    """

    label: ClassVar[str] = "withdrawal"
    max_bytes: ClassVar[int] = MAX_WITHDRAWAL
    wire_optional: ClassVar[frozenset[str]] = frozenset({"reason"})

    model_id: fields.ModelId
    version: fields.Version
    reason: fields.Line = ""

    @property
    def key(self) -> str:
        """The key of the record, which is the key of the manifest that is withdrawn."""
        return f"{self.model_id}@{self.version}"


class Cancellation(Strict):
    """A publisher's word that an update command of its is not to be carried out any more. Immutable.

    Read from JSON, unknown fields are ignored and `reason` may be missing.

    Args:
        command_id: the command's.
        model_id: the model that the command is about.
        reason: one line, why, for people to read; may be empty.

    Raises:
        InvalidManifest: a field (named) breaks a rule.
    """

    label: ClassVar[str] = "cancellation"
    max_bytes: ClassVar[int] = MAX_WITHDRAWAL
    wire_optional: ClassVar[frozenset[str]] = frozenset({"reason"})

    command_id: fields.Tag
    model_id: fields.ModelId
    reason: fields.Line = ""

    @property
    def key(self) -> str:
        """The key of the record, which is the key of the command that is canceled."""
        return command_key(self.model_id, self.command_id)


def command_key(model_id: str, command_id: str) -> str:
    """The key of a command's record. A model's name holds no slash, so the first one divides it."""
    return f"{model_id}/{command_id}"


def decode_manifest(record: Record) -> ModelManifest:
    """The manifest in a record.

    Raises:
        InvalidManifest: the body is no valid manifest, or one of another model or version than the key says.
        LocalProtocolError: the record is of another type.
    """
    _expect(record, RecordType.MANIFEST)
    manifest = ModelManifest.from_json(record.body)
    _same_key(record, manifest.key)
    return manifest


def decode_withdrawal(record: Record) -> Withdrawal:
    """The withdrawal in a record.

    Raises:
        InvalidManifest: the body is no valid withdrawal, or one of something else than the key says.
        LocalProtocolError: the record is of another type.
    """
    _expect(record, RecordType.WITHDRAWAL)
    withdrawal = Withdrawal.from_json(record.body)
    _same_key(record, withdrawal.key)
    return withdrawal


def decode_command(record: Record) -> ModelUpdateCommand:
    """The update command in a record.

    Raises:
        InvalidManifest: the body is no valid command, or its model and command_id are not what the key says.
        LocalProtocolError: the record is of another type.
    """
    _expect(record, RecordType.COMMAND)
    command = ModelUpdateCommand.from_json(record.body)
    _same_key(record, command_key(command.manifest.model_id, command.command_id))
    return command


def decode_cancellation(record: Record) -> Cancellation:
    """The cancellation in a record.

    Raises:
        InvalidManifest: the body is no valid cancellation, or one of something else than the key says.
        LocalProtocolError: the record is of another type.
    """
    _expect(record, RecordType.CANCELLATION)
    cancellation = Cancellation.from_json(record.body)
    _same_key(record, cancellation.key)
    return cancellation


def check_body(record: Record) -> None:
    """Check the body of a record of any type, as a gossip validator wants it; statuses are not looked at.

    Raises:
        InvalidManifest: see the decoders.
    """
    decode = _DECODERS.get(record.type)
    if decode is not None:
        decode(record)


_DECODERS: dict[RecordType, Callable[[Record], object]] = {
    RecordType.MANIFEST: decode_manifest,
    RecordType.WITHDRAWAL: decode_withdrawal,
    RecordType.COMMAND: decode_command,
    RecordType.CANCELLATION: decode_cancellation,
}


def _expect(record: Record, record_type: RecordType) -> None:
    if record.type is not record_type:
        raise LocalProtocolError(f"a {record.type} record was decoded as a {record_type}")


def _same_key(record: Record, key: str) -> None:
    if key != record.key:
        raise InvalidManifest(
            f"a {record.type} record is filed under {record.key!a}, its body is about {key[:300]!a}"
        )
