"""The control API's client side: what a command uses to ask the node that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from peatnet.api.socket_path import answers, socket_address
from peatnet.errors import NodeUnreachable, PeatnetError, error_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CONNECT_TIMEOUT_S = 2.0

# The server sends an empty line every 5 s; a node silent for this long is stuck.
_SILENCE_TIMEOUT_S = 30.0

# A catalogue of 65,536 manifests is listed in one line; beyond this something is wrong with the sender.
_MAX_LINE_BYTES = 256 * 1024 * 1024


class ControlClient:
    """Asks a running node, from outside trio. Every call is a connection of its own, so threads may share it.

    Args:
        socket_path: the node's control socket.
    """

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path

    def call(
        self,
        verb: str,
        params: dict[str, Any] | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Any:
        """Run a verb in the node and return its result.

        Args:
            verb: its name in ``peatnet.api.verbs``.
            params: its parameters, as JSON values.
            on_progress: called with each word of progress.

        Raises:
            NodeUnreachable: no node answers, or it stopped before its answer was whole.
            PeatnetError: what the verb raised, as the class that it raised.
        """
        # Asked first: httpcore leaks the socket of a connection that was refused.
        if not answers(self.socket_path):
            raise NodeUnreachable(
                f"{self.socket_path}: no node answers", hint="`peatnet up` runs one"
            )
        timeout = httpx.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        try:
            with (
                socket_address(self.socket_path) as address,
                # There is no TLS on a socket that is a file; by default httpx would load every authority's certificate.
                httpx.HTTPTransport(uds=address, verify=False) as transport,
                httpx.Client(transport=transport, timeout=timeout) as client,
                # The node keeps no connection open for a next question that will not come.
                client.stream(
                    "POST",
                    f"http://peatnet/v1/{verb}",
                    json=params or {},
                    headers={"Connection": "close"},
                ) as response,
            ):
                return _read_answer(response, on_progress)
        except httpx.TimeoutException as exc:
            raise NodeUnreachable(
                f"{self.socket_path}: the node does not answer",
                hint="it may be frozen or overloaded; see its log, or restart it",
            ) from exc
        except httpx.RemoteProtocolError as exc:
            raise NodeUnreachable(
                f"the node ended the connection before its answer was whole: {exc}",
                hint="see its log",
            ) from exc
        except (httpx.HTTPError, OSError) as exc:
            raise NodeUnreachable(
                f"{self.socket_path}: no answer from the node: {exc}",
                hint="see its log; if it is gone, run `peatnet up` again",
            ) from exc


def _read_answer(
    response: httpx.Response, on_progress: Callable[[dict[str, Any]], None] | None
) -> Any:
    for line in _lines(response):
        message = _parse(line)
        if "result" in message:
            return message["result"]
        if "error" in message:
            raise _rebuild(message["error"])
        if on_progress is not None and isinstance(message.get("progress"), dict):
            on_progress(message["progress"])
    raise NodeUnreachable(
        "the node ended the connection before its answer was whole", hint="see its log"
    )


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """The answer's lines; the empty ones, which only say that the node is alive, are left out."""
    parts: list[bytes] = []
    length = 0
    for part in response.iter_raw():
        *ends, rest = part.split(b"\n")
        for end in ends:
            if line := b"".join([*parts, end]):
                yield line
            parts.clear()
            length = 0
        parts.append(rest)
        length += len(rest)
        if length > _MAX_LINE_BYTES:
            raise NodeUnreachable("the node sent a line without end")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as exc:
        raise NodeUnreachable(
            f"the control socket answered with something that is not peatnet's: {line[:80]!r}"
        ) from exc
    if not isinstance(message, dict):
        raise NodeUnreachable("the control socket answered with something that is not peatnet's")
    return message


def _rebuild(error: dict[str, Any]) -> PeatnetError:
    cls = error_classes().get(error.get("slug", ""), PeatnetError)
    return cls(str(error.get("message", "")), hint=error.get("hint"))
