"""Node status: what a node says of itself on ``/peatnet/status/1``: its hardware, its models, what became of orders.

Gossipsub's strict signing proves who says it, and nothing proves that it is true: it is there to be looked at. A
message is complete in itself, so that a lost one does no harm; the newest of a sender counts, by gossipsub's own
sequence numbers, which a node keeps growing over restarts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgpack
from multiaddr import Multiaddr

from peatnet.errors import RemoteProtocolError
from peatnet.models import ModelStatus
from peatnet.net.addresses import MAX_ADDRESS_BYTES, MAX_ADDRESSES, announced_by_peer
from peatnet.net.wire import unpack_map
from peatnet.records import PublicKey
from peatnet.records.base58 import base58_decode
from peatnet.records.keys import KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peatnet.net.wire import Fields

MAX_STATUS: Final = 32 * 1024
MAX_MODELS: Final = 256
MAX_OUTCOMES: Final = 32
MAX_NAME: Final = 64
MAX_REASON: Final = 600
MAX_WORD: Final = 128
MAX_KEY: Final = 300
MAX_PROVIDERS: Final = 32
MAX_GPUS: Final = 16
MAX_COUNT: Final = 2**53
"""Of MiB, bytes a second, seconds: what every language can count up to."""
PROGRESS: Final = 10_000
"""Progress is sent in parts of this many."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_LINES: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class CommandOutcome(StrEnum):
    """How far a node has got with an update command."""

    WAITING = "waiting"
    """It will be done, and has not begun."""
    RUNNING = "running"
    """It is being done."""
    DONE = "done"
    FAILED = "failed"
    """It was tried, and something else is in service, or nothing."""
    REFUSED = "refused"
    """It will not be done; the reason says why."""
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class CommandReport:
    """What became of one update command on a node.

    Attributes:
        command_id: the command's.
        model: which model it is about, ``model_id@version``.
        outcome: how far it is.
        reason: why not, in words, perhaps with a loader's last lines; "" where there is nothing to say.
    """

    command_id: str
    model: str
    outcome: CommandOutcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """How far a node has got with one model: what Peat's LocalModelState says, but for paths on its disk.

    Attributes:
        publisher: the peer id of who signed its manifest.
        model_id: the model's name.
        version: its version.
        status: as Peat has it.
        progress: the verified share of the bytes, 0 to 1.
        wanted: whether the node will fetch it by itself, or does.
        rate: bytes a second, while it is downloading.
        left_s: seconds that the download will take, where that is known.
        reason: why it is not there, in words.
    """

    publisher: str
    model_id: str
    version: str
    status: ModelStatus
    progress: float = 0.0
    wanted: bool = False
    rate: int = 0
    left_s: int | None = None
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """The model's name among all: its publisher, and ``model_id@version``."""
        return self.publisher, f"{self.model_id}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareReport:
    """What a node has, in short. Sizes are in MiB; ``gpus`` are names with memory."""

    os: str = ""
    arch: str = ""
    cpu: str = ""
    cores: int = 0
    ram_mb: int = 0
    free_disk_mb: int = 0
    vram_mb: int = 0
    gpus: tuple[tuple[str, int], ...] = ()
    execution_providers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One status message.

    Attributes:
        name: what its operator calls the node.
        addresses: where it can be dialled, without the peer id.
        hardware: what it has.
        models: how far it is with each, those first that matter most.
        outcomes: of commands, the newest first.
        truncated: there are more models than fit.
        leaving: the node is about to stop.
    """

    name: str
    addresses: tuple[str, ...] = ()
    hardware: HardwareReport = HardwareReport()
    models: tuple[ModelReport, ...] = ()
    outcomes: tuple[CommandReport, ...] = ()
    truncated: bool = False
    leaving: bool = False

    def bounded(self) -> NodeStatus:
        """The same, cut to what may be sent: texts, counts, and as many models as fit."""
        hardware = self.hardware
        cut = replace(
            self,
            name=_line(self.name, MAX_NAME) or "?",
            addresses=self.addresses[:MAX_ADDRESSES],
            hardware=replace(
                hardware,
                os=_line(hardware.os, MAX_WORD),
                arch=_line(hardware.arch, MAX_WORD),
                cpu=_line(hardware.cpu, MAX_WORD),
                cores=_count(hardware.cores),
                ram_mb=_count(hardware.ram_mb),
                free_disk_mb=_count(hardware.free_disk_mb),
                vram_mb=_count(hardware.vram_mb),
                gpus=tuple(
                    (_line(name, MAX_WORD), _count(vram)) for name, vram in hardware.gpus[:MAX_GPUS]
                ),
                execution_providers=tuple(
                    _line(each, MAX_WORD) for each in hardware.execution_providers[:MAX_PROVIDERS]
                ),
            ),
            models=(),
            outcomes=(),
        )
        room = MAX_STATUS - len(cut.encode()) - 16  # for longer lengths of the lists
        # Orders first, which are few; but half of the room is for models whatever they say.
        outcomes = [_cut_outcome(each) for each in self.outcomes[:MAX_OUTCOMES]]
        kept = _fitting((_packed(_outcome_map(each)) for each in outcomes), room // 2)
        room -= kept.size
        models = [_cut_model(each) for each in self.models[:MAX_MODELS]]
        shown = _fitting((_packed(_model_map(each)) for each in models), room)
        return replace(
            cut,
            outcomes=tuple(outcomes[: kept.count]),
            models=tuple(models[: shown.count]),
            truncated=self.truncated or shown.count < len(self.models),
        )

    def encode(self) -> bytes:
        """The message's bytes; of a status that :meth:`bounded` returned, at most ``MAX_STATUS``."""
        hardware = self.hardware
        fields: dict[str, Any] = {
            "n": self.name,
            "a": [Multiaddr(text).to_bytes() for text in self.addresses],
            "h": {
                "o": hardware.os,
                "a": hardware.arch,
                "u": hardware.cpu,
                "c": hardware.cores,
                "r": hardware.ram_mb,
                "d": hardware.free_disk_mb,
                "v": hardware.vram_mb,
                "g": [{"n": name, "v": vram} for name, vram in hardware.gpus],
                "x": list(hardware.execution_providers),
            },
            "m": [_model_map(each) for each in self.models],
            "c": [_outcome_map(each) for each in self.outcomes],
            "x": self.truncated,
        }
        if self.leaving:
            fields["b"] = True
        return _packed(fields)

    @classmethod
    def decode(cls, data: bytes) -> NodeStatus:
        """Read a message; addresses of kinds that we do not dial are left out.

        Raises:
            RemoteProtocolError: malformed, or over a bound.
        """
        if len(data) > MAX_STATUS:
            raise RemoteProtocolError(f"a status of {len(data)} bytes")
        fields = unpack_map(data)
        name = _one_line(fields, "n", MAX_NAME)
        if not name:
            raise RemoteProtocolError("field 'n': a name is needed")
        return cls(
            name=name,
            addresses=tuple(
                announced_by_peer(fields.binaries("a", MAX_ADDRESSES, 1, MAX_ADDRESS_BYTES))
            ),
            hardware=_read_hardware(fields.map("h")),
            models=tuple(_read_model(each) for each in fields.maps("m", MAX_MODELS)),
            outcomes=tuple(_read_outcome(each) for each in fields.maps("c", MAX_OUTCOMES)),
            truncated=fields.boolean("x"),
            leaving="b" in fields and fields.boolean("b"),
        )


# Reading


def _one_line(fields: Fields, key: str, limit: int) -> str:
    text = fields.text(key, limit)
    if _CONTROL.search(text):
        raise RemoteProtocolError(f"field {key!r}: control characters")
    return text


def _reason(fields: Fields) -> str:
    text = fields.text("e", MAX_REASON) if "e" in fields else ""
    if _CONTROL_BUT_LINES.search(text):
        raise RemoteProtocolError("field 'e': control characters")
    return text


def _read_hardware(fields: Fields) -> HardwareReport:
    providers = fields.texts("x", MAX_PROVIDERS, MAX_WORD)
    if any(_CONTROL.search(each) for each in providers):
        raise RemoteProtocolError("field 'x': control characters")
    return HardwareReport(
        os=_one_line(fields, "o", MAX_WORD),
        arch=_one_line(fields, "a", MAX_WORD),
        cpu=_one_line(fields, "u", MAX_WORD),
        cores=fields.integer("c", 0, MAX_COUNT),
        ram_mb=fields.integer("r", 0, MAX_COUNT),
        free_disk_mb=fields.integer("d", 0, MAX_COUNT),
        vram_mb=fields.integer("v", 0, MAX_COUNT),
        gpus=tuple(
            (_one_line(each, "n", MAX_WORD), each.integer("v", 0, MAX_COUNT))
            for each in fields.maps("g", MAX_GPUS)
        ),
        execution_providers=tuple(providers),
    )


def _read_model(fields: Fields) -> ModelReport:
    try:
        status = ModelStatus(fields.text("s", MAX_WORD))
    except ValueError:
        raise RemoteProtocolError("field 's': no status of a model") from None
    return ModelReport(
        publisher=str(PublicKey(fields.binary("p", KEY_BYTES, KEY_BYTES)).peer_id),
        model_id=_one_line(fields, "i", MAX_WORD),
        version=_one_line(fields, "v", MAX_WORD),
        status=status,
        progress=fields.integer("g", 0, PROGRESS) / PROGRESS,
        wanted=fields.boolean("w"),
        rate=fields.integer("r", 0, MAX_COUNT) if "r" in fields else 0,
        left_s=fields.integer("l", 0, MAX_COUNT) if "l" in fields else None,
        reason=_reason(fields),
    )


def _read_outcome(fields: Fields) -> CommandReport:
    try:
        outcome = CommandOutcome(fields.text("o", MAX_WORD))
    except ValueError:
        raise RemoteProtocolError("field 'o': no outcome of a command") from None
    return CommandReport(
        command_id=_one_line(fields, "i", MAX_KEY),
        model=_one_line(fields, "k", MAX_KEY),
        outcome=outcome,
        reason=_reason(fields),
    )


# Writing


@dataclass(frozen=True, slots=True)
class _Fit:
    count: int
    size: int


def _fitting(packed: Iterable[bytes], room: int) -> _Fit:
    """How many of these, from the first on, there is room for, and the bytes that they take."""
    count = size = 0
    for each in packed:
        if size + len(each) > room:
            break
        count, size = count + 1, size + len(each)
    return _Fit(count, size)


def _packed(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _line(text: str, limit: int) -> str:
    """Text made fit to be sent: one line of at most so many characters."""
    return _cut(_CONTROL.sub(" ", _plain(text)), limit)


def _plain(text: str) -> str:
    # Names of machines and what loaders say may hold bytes that are no text.
    return text.encode(errors="replace").decode()


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _count(number: int) -> int:
    return min(max(int(number), 0), MAX_COUNT)


def _fit_reason(text: str) -> str:
    return _cut(_CONTROL_BUT_LINES.sub(" ", _plain(text)), MAX_REASON)


def _cut_model(report: ModelReport) -> ModelReport:
    return replace(
        report,
        progress=min(max(report.progress, 0.0), 1.0),
        rate=_count(report.rate),
        left_s=None if report.left_s is None else _count(report.left_s),
        reason=_fit_reason(report.reason),
    )


def _cut_outcome(report: CommandReport) -> CommandReport:
    return replace(report, reason=_fit_reason(report.reason))


def _model_map(report: ModelReport) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "p": base58_decode(report.publisher)[-KEY_BYTES:],
        "i": report.model_id,
        "v": report.version,
        "s": report.status.value,
        "g": int(report.progress * PROGRESS),
        "w": report.wanted,
    }
    if report.rate:
        fields["r"] = report.rate
    if report.left_s is not None:
        fields["l"] = report.left_s
    if report.reason:
        fields["e"] = report.reason
    return fields


def _outcome_map(report: CommandReport) -> dict[str, Any]:
    fields = {"i": report.command_id, "k": report.model, "o": report.outcome.value}
    return fields | ({"e": report.reason} if report.reason else {})
