"""The control API's server side: HTTP on a Unix socket that only the node's own user can open.

``POST /v1/{verb}`` takes the parameters as a JSON object and answers with lines of JSON: any number of
``{"progress": …}``, then one ``{"result": …}`` or ``{"error": {"slug", "message", "hint"}}``. Empty lines in between say
that the node is alive. A client that goes away cancels its verb. Every answer to a verb that exists has
status 200: headers are sent before the outcome is known.
"""

from __future__ import annotations

import json
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from peatnet.api.connections import serve_connections
from peatnet.api.listener import control_listener
from peatnet.api.verbs import VERBS, Verb, error_line
from peatnet.concurrency import first_error
from peatnet.errors import PeatnetError, UsageError

if TYPE_CHECKING:
    # libp2p brings trio-typing, whose stubs hide trio's own types from the type checker.
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send
    from trio_typing import TaskStatus

    from peatnet.node import Node

# A manifest is 48 KiB at most; nothing else that a client sends is larger than a path. Who publishes many files sends
# as many at once as go in here.
MAX_REQUEST_BYTES = 256 * 1024

_NDJSON = "application/x-ndjson"

# How often a client hears of progress, and how soon it can tell a stuck node from a busy one.
PROGRESS_EVERY_S = 0.25
HEARTBEAT_EVERY_S = 5.0


async def serve_control(
    node: Node,
    socket_path: Path,
    *,
    task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control API until cancelled; started once the socket accepts connections.

    Cancellation ends all verbs that run, closes the socket and removes it.

    Raises:
        DataDirLocked: another process serves this socket.
        StorageError: the socket cannot be made.
    """
    with control_listener(socket_path) as descriptor:
        task_status.started()  # the kernel accepts connections from now on
        await serve_connections(control_app(node), descriptor, max_head=MAX_REQUEST_BYTES)


def control_app(node: Node) -> Starlette:
    """The control API of a node as an ASGI application."""

    async def run_verb(request: Request) -> Response:
        name = request.path_params["verb"]
        verb = VERBS.get(name)
        if verb is None:
            error = UsageError(f"no verb {name!r}", hint=f"there are {', '.join(VERBS)}")
            return _refusal(error, 404)
        try:
            params = verb.parse(await _read_json(request))
        except UsageError as exc:
            return _refusal(exc, 400)
        except ClientDisconnect:
            return _Silence()
        return _VerbResponse(node, verb, params)

    return Starlette(routes=[Route("/v1/{verb}", run_verb, methods=["POST"])])


def _refusal(error: PeatnetError, status: int) -> Response:
    body = json.dumps(error_line(error)).encode() + b"\n"
    return Response(body, status_code=status, media_type=_NDJSON)


async def _read_json(request: Request) -> Any:
    body = bytearray()
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            body += part
            if len(body) > MAX_REQUEST_BYTES:
                raise UsageError(f"the request is larger than {MAX_REQUEST_BYTES} bytes")
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the request is not JSON: {exc}") from exc


class _Silence(Response):
    """For a client that went away in the middle of its request: nobody is there to read anything."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""


class _Latest:
    """The newest word of progress; older ones that nobody has read are dropped. ``put`` is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: dict[str, Any] | None = None

    def put(self, value: dict[str, Any]) -> None:
        with self._lock:
            self._value = value

    def take(self) -> dict[str, Any] | None:
        with self._lock:
            value, self._value = self._value, None
            return value


class _VerbResponse(Response):
    """Runs a verb and streams what it says, for as long as the client listens."""

    media_type = _NDJSON

    def __init__(self, node: Node, verb: Verb[Any], params: Any) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._node = node
        self._verb = verb
        self._params = params

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's shape
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        latest = _Latest()
        outcomes: list[dict[str, Any]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            nursery.start_soon(_tell_progress, latest, send)
            outcomes.append(await self._outcome(latest))
            nursery.cancel_scope.cancel()
        if not outcomes:
            return  # the client has gone, and its verb was cancelled
        if (progress := latest.take()) is not None:
            await _send_line(send, {"progress": progress})
        await _send_line(send, outcomes[0], more=False)

    async def _outcome(self, latest: _Latest) -> dict[str, Any]:
        outcome: dict[str, Any] = {}
        try:
            outcome = {"result": await self._verb.run(self._node, self._params, latest.put)}
        except* PeatnetError as group:
            outcome = error_line(first_error(group))
        return outcome


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _tell_progress(latest: _Latest, send: Send) -> None:
    quiet_since = trio.current_time()
    while True:
        await trio.sleep(PROGRESS_EVERY_S)
        progress = latest.take()
        now = trio.current_time()
        if progress is not None:
            await _send_line(send, {"progress": progress})
        elif now - quiet_since >= HEARTBEAT_EVERY_S:
            await send({"type": "http.response.body", "body": b"\n", "more_body": True})
        else:
            continue
        quiet_since = now


async def _send_line(send: Send, value: dict[str, Any], *, more: bool = True) -> None:
    body = json.dumps(value).encode() + b"\n"
    await send({"type": "http.response.body", "body": body, "more_body": more})
