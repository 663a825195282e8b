"""The control API's client side: what a command uses to ask the node that runs."""

from __future__ import annotations

import json
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import Timer
from typing import TYPE_CHECKING, Any

from peatnet.api.socket_path import connected
from peatnet.errors import NodeUnreachable, PeatnetError, error_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

# The server sends an empty line every 5 s; a node silent for this long is stuck.
_SILENCE_TIMEOUT_S = 30.0

# A node that is well begins its answer at once, however long the rest takes. Whoever waits should hear of one that is not.
_WORD_AFTER_S = 3.0

# A catalogue of 65,536 manifests is listed in one line; beyond this something is wrong with the sender.
_MAX_LINE_BYTES = 256 * 1024 * 1024


# Bytes that are read at once, at most.
_PIECE = 64 * 1024


class _Connection(HTTPConnection):
    """HTTP over a socket that is a file. The standard library's is enough, and spares a command httpx's import."""

    def __init__(self, path: Path, on_silence: Callable[[float], None] | None) -> None:
        super().__init__("peatnet")
        self._path = path
        self._silence: Timer | None = None
        if on_silence is not None:
            self._silence = Timer(_WORD_AFTER_S, on_silence, [_SILENCE_TIMEOUT_S])
            self._silence.daemon = True

    def connect(self) -> None:
        """Connect; raises NodeUnreachable."""
        if self._silence is not None:
            self._silence.start()
        connection = connected(self._path, _SILENCE_TIMEOUT_S)
        if connection is None:
            raise NodeUnreachable(f"{self._path}: no node answers", hint="`peatnet up` runs one")
        self.sock = connection

    def getresponse(self) -> HTTPResponse:
        """The answer, as far as its beginning."""
        response = super().getresponse()
        self._not_silent()
        return response

    def close(self) -> None:
        """Close it, whether or not there was an answer."""
        self._not_silent()
        super().close()

    def _not_silent(self) -> None:
        if self._silence is not None:
            self._silence.cancel()


class ControlClient:
    """Asks a running node, from outside trio. Every call is a connection of its own, so threads may share it.

    Args:
        socket_path: the node's control socket.
        on_silence: called once a call, in a thread of its own, when no answer has begun after 3 s; with the seconds for which it
            is waited at most.
    """

    def __init__(
        self, socket_path: Path, on_silence: Callable[[float], None] | None = None
    ) -> None:
        self.socket_path = socket_path
        self._on_silence = on_silence

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
        with closing(self._exchange(verb, params or {})) as messages:
            for message in messages:
                if "result" in message:
                    return message["result"]
                if "error" in message:
                    raise rebuild_error(message["error"])
                if on_progress is not None and isinstance(message.get("progress"), dict):
                    on_progress(message["progress"])
        raise NodeUnreachable(
            "the node ended the connection before its answer was whole", hint="see its log"
        )

    def _exchange(self, verb: str, params: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Ask, and give each message of the answer.

        A generator, so that what fails while the caller deals with a message (a full disk under its stdout, say) is
        not taken for a failure of the node.
        """
        connection = _Connection(self.socket_path, self._on_silence)
        try:
            connection.request(
                "POST",
                f"/v1/{verb}",
                json.dumps(params),
                # The node keeps no connection open for a next question that will not come.
                {"Connection": "close", "Content-Type": "application/json"},
            )
            with connection.getresponse() as response:
                for line in _lines(response):
                    yield _parse(line)
        except TimeoutError as exc:
            raise NodeUnreachable(
                f"{self.socket_path}: the node does not answer",
                hint="it may be frozen or overloaded; see its log, or restart it",
            ) from exc
        except HTTPException as exc:
            raise NodeUnreachable(
                f"the node ended the connection before its answer was whole: {exc}",
                hint="see its log",
            ) from exc
        except OSError as exc:
            raise NodeUnreachable(
                f"{self.socket_path}: no answer from the node: {exc}",
                hint="see its log; if it is gone, run `peatnet up` again",
            ) from exc
        finally:
            connection.close()


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    """The answer's lines; the empty ones, which only say that the node is alive, are left out."""
    parts: list[bytes] = []
    length = 0
    while part := response.read1(_PIECE):
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


def rebuild_error(error: dict[str, Any]) -> PeatnetError:
    """The error that ``peatnet.api.verbs.error_line`` told of."""
    cls = error_classes().get(error.get("slug", ""), PeatnetError)
    return cls(str(error.get("message", "")), hint=error.get("hint"))
