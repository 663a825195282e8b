"""What a node can be asked: one table of verbs, the same over the control socket and within a process.

A verb is a pydantic model of its parameters (strict and bounded, since they come from another process) and
an async function that asks the node and gives a value fit for JSON. Long verbs say how far they are
through ``emit``, which may be called from any thread, as often as it suits, and never blocks.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import trio
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from peatnet.api.calls import MAX_FILES
from peatnet.awaiting import await_command
from peatnet.blobs import AddMode
from peatnet.errors import (
    InvalidManifest,
    NotFound,
    PeatnetError,
    StorageError,
    UsageError,
    complaint,
)
from peatnet.fetching import USUAL_PRIORITY
from peatnet.models import ModelManifest
from peatnet.net.node_status import CommandOutcome
from peatnet.publishing import Publication
from peatnet.rates import Rate  # noqa: TC001  # pydantic reads annotations at run time
from peatnet.views import SourceChoice

if TYPE_CHECKING:
    from peatnet.node import Node

Emit = Callable[[dict[str, Any]], None]


def _absolute(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError("must be an absolute path")
    return text


# A path may be 4096 bytes long on Linux; a reference is a model id, "@" and a version, or a hash.
# It must mean the same in this process as in the one that sent it.
_PathText = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_absolute)]
_Reference = Annotated[str, Field(min_length=1, max_length=300)]
_NodeName = Annotated[str, Field(min_length=1, max_length=128)]
_PeerId = Annotated[str, Field(min_length=1, max_length=128)]


class Params(BaseModel):
    """The parameters of a verb; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoParams(Params):
    """For verbs that need none."""


class ReferenceParams(Params):
    """For verbs on one model or blob."""

    reference: _Reference


class RemoveParams(ReferenceParams):
    """``force`` removes what is pinned, too."""

    force: bool = False


class PublishParams(Params):
    """An absolute path, the manifest's JSON (sizes and hashes are filled in), and how to take the file."""

    path: _PathText
    manifest: dict[str, Any]
    mode: AddMode = AddMode.AUTO


class PublishAllParams(Params):
    """Several files at once; the request as a whole is bounded as well."""

    files: Annotated[list[PublishParams], Field(min_length=1, max_length=MAX_FILES)]


class GetParams(ReferenceParams):
    """``out`` is absolute; with ``force`` it may exist. ``priority``: 1 is the most urgent."""

    source: SourceChoice = SourceChoice.ANY
    priority: int = Field(default=USUAL_PRIORITY, ge=1, le=5)
    out: _PathText | None = None
    force: bool = False


class PeerParams(Params):
    """For verbs on one peer."""

    peer_id: _PeerId


class VerifyParams(Params):
    """None verifies everything; ``rebuild`` first makes the index anew from the blob files."""

    reference: _Reference | None = None
    rebuild: bool = False


class GcParams(Params):
    """``dry_run`` only tells."""

    dry_run: bool = False


class StatusParams(ReferenceParams):
    """``watch``: tell it as progress, again and again, until the client goes away."""

    watch: bool = False


class NodeParams(Params):
    """For verbs on one node of the fleet: its name, its peer id, or the end of one."""

    node: Annotated[str, Field(min_length=1, max_length=128)]


class OrderParams(ReferenceParams):
    """``to``: names or peer ids of nodes; none means all. ``priority``: 1 is the most urgent."""

    to: list[_NodeName] = Field(default_factory=list, max_length=1024)
    priority: int = Field(default=USUAL_PRIORITY, ge=1, le=5)


class DeployParams(OrderParams):
    """``load`` puts the model into service; ``rollback`` is what to go back to when that fails."""

    load: bool = True
    rollback: _Reference | None = None


class CommandParams(Params):
    """For verbs on one update command; the beginning of its id will do."""

    command_id: _NodeName


class AwaitParams(CommandParams):
    """None waits for ever."""

    timeout_s: float | None = Field(default=None, ge=0, le=10_000_000)


class LimitsParams(Params):
    """What is given is changed. Numbers of bytes a second, text such as ``10MB/s``, or 0 or null for no limit."""

    upload_limit: Rate = None
    download_limit: Rate = None
    peer_upload_limit: Rate = None


P = TypeVar("P", bound=Params)


@dataclass(frozen=True, slots=True)
class Verb(Generic[P]):
    """One thing that a node can be asked."""

    params: type[P]
    run: Callable[[Node, P, Emit], Awaitable[Any]]

    def parse(self, params: Any) -> P:
        """Check parameters.

        Raises:
            UsageError: one is missing, unknown or of the wrong kind; the message names it.
        """
        try:
            return self.params.model_validate(params)
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "parameters"
            raise UsageError(f"{where}: {complaint(first)}") from exc


async def _id(node: Node, _params: NoParams, _emit: Emit) -> Any:
    return {"peer_id": node.peer_id}


async def _node(node: Node, _params: NoParams, _emit: Emit) -> Any:
    return {"peer_id": node.peer_id, "addrs": node.addrs, "data_dir": str(node.config.data_dir)}


async def _publish(node: Node, params: PublishParams, emit: Emit) -> Any:
    path = Path(params.path)
    manifest = ModelManifest.from_json(json.dumps(params.manifest))
    size = await trio.to_thread.run_sync(_size, path)

    def progress(hashed: int) -> None:
        trio.from_thread.check_cancelled()  # hashing a large file takes minutes
        emit({"hashed_bytes": hashed, "size_bytes": size})

    return _manifest(await node.publish(path, manifest, mode=params.mode, progress=progress))


async def _publish_all(node: Node, params: PublishAllParams, emit: Emit) -> Any:
    """For each file, in order, ``{"manifest": …}`` or ``{"error": …}``."""
    answers: list[Any] = [None] * len(params.files)
    numbers: list[int] = []
    publications: list[Publication] = []
    for number, file in enumerate(params.files):
        try:
            manifest = ModelManifest.from_json(json.dumps(file.manifest))
        except InvalidManifest as exc:
            answers[number] = error_line(exc)
        else:
            numbers.append(number)
            publications.append(Publication(Path(file.path), manifest, file.mode))

    def progress(hashed: int) -> None:
        trio.from_thread.check_cancelled()
        emit({"hashed_bytes": hashed})

    results = await node.publish_all(publications, progress=progress)
    for number, result in zip(numbers, results, strict=True):
        if isinstance(result, PeatnetError):
            answers[number] = error_line(result)
        else:
            answers[number] = {"manifest": _manifest(result)}
    return answers


def error_line(error: PeatnetError) -> dict[str, Any]:
    """The object that tells a client of an error."""
    return {"error": error.fields()}


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a directory", hint="publish a single file")
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotFound(f"{path}: no such file") from exc
    except OSError as exc:
        raise StorageError(f"{path}: {exc.strerror}") from exc


async def _models(node: Node, _params: NoParams, _emit: Emit) -> Any:
    return [view.to_json() for view in await node.models()]


async def _show(node: Node, params: ReferenceParams, _emit: Emit) -> Any:
    return _manifest(await node.show(params.reference))


async def _get(node: Node, params: GetParams, emit: Emit) -> Any:
    result = await node.get(
        params.reference,
        source=params.source,
        out=None if params.out is None else Path(params.out),
        force=params.force,
        priority=params.priority,
        progress=lambda progress: emit(progress.to_json()),
    )
    return result.to_json()


async def _peers(node: Node, _params: NoParams, _emit: Emit) -> Any:
    return [view.to_json() for view in await node.peers()]


async def _fleet(node: Node, _params: NoParams, _emit: Emit) -> Any:
    return [view.to_json() for view in await node.fleet.nodes()]


async def _fleet_forget(node: Node, params: NodeParams, _emit: Emit) -> Any:
    return {"forgotten": await node.fleet.forget(params.node)}


async def _status(node: Node, params: StatusParams, emit: Emit) -> Any:
    if params.watch:
        await node.fleet.watch(params.reference, lambda view: emit(view.to_json()))
    return (await node.fleet.status(params.reference)).to_json()


async def _deploy(node: Node, params: DeployParams, _emit: Emit) -> Any:
    command = await node.commander.deploy(
        params.reference,
        to=params.to,
        priority=params.priority,
        load=params.load,
        rollback=params.rollback,
    )
    return {"command_id": command.command_id, "model": command.manifest.key}


async def _rollback(node: Node, params: OrderParams, _emit: Emit) -> Any:
    command = await node.commander.rollback(
        params.reference, to=params.to, priority=params.priority
    )
    return {"command_id": command.command_id, "model": command.manifest.key}


async def _cancel(node: Node, params: CommandParams, _emit: Emit) -> Any:
    """``done_on``: the nodes that have done it before; ``next``: what they, or others, do now instead."""
    command_id = await node.commander.cancel(params.command_id)
    reports = node.fleet.outcomes(command_id)
    done = {peer_id for peer_id, each in reports.items() if each.outcome is CommandOutcome.DONE}
    names = [each.name or each.peer_id for each in await node.fleet.nodes() if each.peer_id in done]
    following = node.commander.in_place_of(command_id)
    if following is not None:
        told = {each.outcome for each in node.fleet.outcomes(str(following.command_id)).values()}
        if told and told <= {CommandOutcome.DONE, CommandOutcome.FAILED}:
            following = None
    named = following and {"command_id": following.command_id, "model": following.manifest.key}
    return {"command_id": command_id, "done_on": names, "next": named}


async def _await_command(node: Node, params: AwaitParams, emit: Emit) -> Any:
    command = node.commander.find(params.command_id)
    view = await await_command(
        node.fleet,
        command,
        lambda found: emit(found.to_json()),
        timeout_s=params.timeout_s,
    )
    return view.to_json()


async def _limits(node: Node, params: LimitsParams, _emit: Emit) -> Any:
    if params.model_fields_set:
        given = {name: getattr(params, name) for name in params.model_fields_set}
        node.limits.change(replace(node.limits.show(), **given))
    return node.limits.show().to_json()


async def _trust_add(node: Node, params: PeerParams, _emit: Emit) -> Any:
    await node.trust_add(params.peer_id)
    return await node.trust_list()


async def _trust_remove(node: Node, params: PeerParams, _emit: Emit) -> Any:
    await node.trust_remove(params.peer_id)
    return await node.trust_list()


async def _trust_list(node: Node, _params: NoParams, _emit: Emit) -> Any:
    return await node.trust_list()


async def _withdraw(node: Node, params: ReferenceParams, _emit: Emit) -> Any:
    return {"withdrawn": await node.withdraw(params.reference)}


async def _rm(node: Node, params: RemoveParams, _emit: Emit) -> Any:
    return {"freed_bytes": await node.remove(params.reference, force=params.force)}


async def _pin(node: Node, params: ReferenceParams, _emit: Emit) -> Any:
    return {"blob_hash": await node.pin(params.reference), "pinned": True}


async def _unpin(node: Node, params: ReferenceParams, _emit: Emit) -> Any:
    return {"blob_hash": await node.unpin(params.reference), "pinned": False}


async def _verify(node: Node, params: VerifyParams, emit: Emit) -> Any:
    def progress(hashed: int, size: int) -> None:
        emit({"hashed_bytes": hashed, "size_bytes": size})

    report = await node.verify(params.reference, rebuild=params.rebuild, progress=progress)
    return {
        "ok": report.ok,
        "checked": len(report.good) + len(report.damaged),
        "damaged": [
            {
                "blob_hash": damage.hash.hex(),
                "reason": damage.reason,
                "bad_chunks": list(damage.bad_chunks),
                "moved_to": str(damage.moved_to),
            }
            for damage in report.damaged
        ],
        "missing": [blob.hex() for blob in report.missing],
        "unchecked": [
            {"blob_hash": each.hash.hex(), "reason": each.reason} for each in report.unchecked
        ],
        "foreign": [str(path) for path in report.foreign],
        "unindexed": [str(path) for path in report.unindexed],
        "restored": [blob.hex() for blob in report.restored],
        "rebuilt": report.rebuilt,
        "bytes_read": report.bytes_read,
    }


async def _gc(node: Node, params: GcParams, _emit: Emit) -> Any:
    report = await node.gc(dry_run=params.dry_run)
    return {
        "dry_run": report.dry_run,
        "removed": [{"blob_hash": blob.hex(), "size_bytes": size} for blob, size in report.removed],
        "files": [{"path": str(path), "size_bytes": size} for path, size in report.files],
        "restored": [blob.hex() for blob in report.restored],
        "freed_bytes": report.freed_bytes,
    }


def _manifest(manifest: ModelManifest) -> Any:
    return manifest.payload()


VERBS: dict[str, Verb[Any]] = {
    "id": Verb(NoParams, _id),
    "node": Verb(NoParams, _node),
    "publish": Verb(PublishParams, _publish),
    "publish_all": Verb(PublishAllParams, _publish_all),
    "models": Verb(NoParams, _models),
    "show": Verb(ReferenceParams, _show),
    "get": Verb(GetParams, _get),
    "peers": Verb(NoParams, _peers),
    "fleet": Verb(NoParams, _fleet),
    "fleet_forget": Verb(NodeParams, _fleet_forget),
    "status": Verb(StatusParams, _status),
    "deploy": Verb(DeployParams, _deploy),
    "rollback": Verb(OrderParams, _rollback),
    "cancel": Verb(CommandParams, _cancel),
    "await_command": Verb(AwaitParams, _await_command),
    "limits": Verb(LimitsParams, _limits),
    "trust_add": Verb(PeerParams, _trust_add),
    "trust_remove": Verb(PeerParams, _trust_remove),
    "trust_list": Verb(NoParams, _trust_list),
    "withdraw": Verb(ReferenceParams, _withdraw),
    "rm": Verb(RemoveParams, _rm),
    "pin": Verb(ReferenceParams, _pin),
    "unpin": Verb(ReferenceParams, _unpin),
    "verify": Verb(VerifyParams, _verify),
    "gc": Verb(GcParams, _gc),
}
