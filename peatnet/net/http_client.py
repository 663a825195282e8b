"""One GET over httpx, with redirects followed by hand and every failure sorted into two kinds.

``Transient`` may go away by itself (a reset connection, a time-out, 503) and is tried again by the caller, a bounded
number of times; ``HttpSourceError`` will not (404, another size, a web page).
"""

from __future__ import annotations

import os
import ssl
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Self

import httpx
import trio

from peatnet.errors import HttpSourceError
from peatnet.net import http_checks as checks
from peatnet.net.http_heads import awaiting_head, watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Client errors that say "not now" and not "no": time-out, too early, too many requests.
_TRANSIENT = frozenset({408, 425, 429})
# What a server says to whom it finds too busy.
_REFUSALS = frozenset({429, 503})
_DISCARD_UNIT = 64 * 1024
# A body comes in the pieces that its server made, or in what the network delivered at once. What has been received is cut
# into pieces without waiting for anything, and each costs the same however small it is.
MANY_PIECES = 1024
SMALLEST_PIECE = 512
# Pieces after which others get a turn.
_PIECES_A_TURN = 16


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Limits of one HTTP source. Times are in seconds.

    Attributes:
        connect_timeout: for a TCP connection and, again, for the TLS handshake.
        read_timeout: for each single read; a server that sends nothing for so long has failed. The head of an
            answer, with all redirects before it, may take twice as long as connecting and one read.
        lowest_rate: bytes a second, of all connections together; a server that is slower, after ``read_timeout``,
            has failed.
        attempts: tries in a row without a new chunk before the source is given up.
        backoff: wait before the second try; doubles from try to try.
        backoff_max: its upper bound, and that of a Retry-After that the server asks for.
        max_redirects: hops from the first URL.
        ssl_context: for https; None for the public certificate authorities.
        trust_env: take proxies from the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
    """

    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    lowest_rate: float = 16 * 1024
    attempts: int = 4
    backoff: float = 0.5
    backoff_max: float = 30.0
    max_redirects: int = 5
    ssl_context: ssl.SSLContext | None = None
    trust_env: bool = True

    def wait(self, attempt: int, asked: float) -> float:
        """How long to wait after failure number ``attempt`` (from 1), when the server asked for ``asked``."""
        return min(self.backoff_max, max(asked, self.backoff * (1 << min(attempt - 1, 16))))

    @property
    def head_timeout(self) -> float:
        """Seconds until the head of an answer must be there."""
        return 2 * (self.connect_timeout + self.read_timeout)


@cache
def _public_authorities(*, trust_env: bool) -> ssl.SSLContext:
    """Made once: reading the list of authorities takes a while."""
    return httpx.create_ssl_context(trust_env=trust_env)


class Transient(Exception):
    """A failure that may go away; becomes an HttpSourceError when it does not.

    Args:
        message: what happened, where.
        wait: how long the server asked us to wait, in seconds.
        refused: the server said that it has enough to do.
    """

    def __init__(self, message: str, *, wait: float = 0.0, refused: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.wait = wait
        self.refused = refused

    def final(self, attempts: int) -> HttpSourceError:
        """The error that tells the user, once ``attempts`` tries have failed."""
        return HttpSourceError(
            f"{self.message} (after {attempts} tries)",
            hint="check that the server is reachable from this machine",
        )


class Body:
    """The bytes of one response, read into buffers of the caller's; ``length`` of them and not one more.

    A server whose pieces have fewer than ``SMALLEST_PIECE`` bytes on average, after ``MANY_PIECES``, has failed.

    Args:
        response: its body unread.
        where: its URL, for messages.
        length: bytes that it must have.
        patience: seconds that reading may take however little is read.
        rate: bytes a second that must come beyond that.
    """

    def __init__(
        self, response: httpx.Response, where: str, length: int, *, patience: float, rate: float
    ) -> None:
        self._pieces = response.aiter_raw()
        self._where = where
        self._patience = patience
        self._rate = rate
        self._piece = memoryview(b"")
        self._length = length
        self._read = 0
        self._n_pieces = 0
        self._received = 0
        self._started = False

    async def read_into(self, view: memoryview, stop: Callable[[], bool] | None = None) -> bool:
        """Fill ``view`` from the body.

        Args:
            view: where the bytes go; all of it is filled.
            stop: asked between pieces; True makes this return early.

        Returns:
            True when the view is full, False when ``stop`` said so.

        Raises:
            HttpSourceError: the pieces are too small.
            Transient: the body ended early, or the connection failed, or is too slow.
        """
        with trio.move_on_after(self._patience + len(view) / self._rate):
            return await self._fill(view, stop)
        raise self._too_slow()

    async def _fill(self, view: memoryview, stop: Callable[[], bool] | None) -> bool:
        filled = 0
        while filled < len(view):
            if not self._piece and not await self._next_piece():
                raise Transient(
                    f"{self._where}: cut off after {self._read} of {self._length} bytes"
                )
            take = min(len(self._piece), len(view) - filled)
            view[filled : filled + take] = self._piece[:take]
            self._piece = self._piece[take:]
            self._read += take
            filled += take
            if filled < len(view) and stop is not None and stop():
                return False
        return True

    async def skip(self, count: int) -> None:
        """Read ``count`` bytes and throw them away; errors as for ``read_into``."""
        scrap = memoryview(bytearray(min(count, _DISCARD_UNIT)))
        while count:
            await self.read_into(scrap[:count])
            count -= min(count, _DISCARD_UNIT)

    async def expect_end(self) -> None:
        """Make sure that nothing follows.

        Raises:
            HttpSourceError: the body is longer than it may be, or comes in pieces that are too small.
            Transient: the connection failed, or is too slow.
        """
        with trio.move_on_after(self._patience):
            if self._piece or await self._next_piece():
                raise HttpSourceError(
                    f"{self._where}: the server sent more than the {self._length} bytes expected",
                    hint="the file there is not the one that the manifest describes",
                )
            return
        raise self._too_slow()

    def _too_slow(self) -> Transient:
        return Transient(f"{self._where}: too slow, after {self._read} of {self._length} bytes")

    async def aclose(self) -> None:
        """Stop reading.

        httpx reads through five nested async generators. Closing the outermost one leaves the others to the garbage
        collector, which trio warns about; a cancelled read ends all of them from the inside, in order. What was
        received already is still parsed on the way there, and may be anything; others get their turns meanwhile.
        """
        if self._started:
            with (
                trio.CancelScope(shield=True) as scope,
                suppress(httpx.HTTPError, httpx.StreamError),
            ):
                scope.cancel()
                async for _ in self._pieces:
                    self._n_pieces += 1
                    if self._n_pieces % _PIECES_A_TURN == 0:
                        await trio.lowlevel.cancel_shielded_checkpoint()

    async def _next_piece(self) -> bool:
        self._started = True
        with _translating(self._where):
            async for piece in self._pieces:
                await self._count(piece)
                if piece:
                    self._piece = memoryview(piece)
                    return True
        return False

    async def _count(self, piece: bytes) -> None:
        self._n_pieces += 1
        self._received += len(piece)
        if self._n_pieces % _PIECES_A_TURN:
            return
        if self._n_pieces >= MANY_PIECES and self._received < self._n_pieces * SMALLEST_PIECE:
            raise HttpSourceError(
                f"{self._where}: the server sends {self._received} bytes in {self._n_pieces} pieces",
                hint="the server must send the file in larger pieces",
            )
        await trio.lowlevel.checkpoint()


class HttpClient:
    """GET requests for one URL; an async context manager.

    Remembers where redirects led, and goes back to the first URL when that place refuses (signed addresses expire).

    Args:
        url: the manifest's download_url.
        connections: how many requests may be open at once.
        settings: limits.

    Raises:
        HttpSourceError: the URL cannot be used.
    """

    def __init__(self, url: str, *, connections: int, settings: HttpSettings) -> None:
        self.url = checks.parse_url(url)
        self._settings = settings
        self._lowest_rate = settings.lowest_rate / connections
        self._final: httpx.URL | None = None
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            event_hooks={"response": [_check_redirect]},
            trust_env=settings.trust_env,
            verify=settings.ssl_context or _public_authorities(trust_env=settings.trust_env),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            timeout=httpx.Timeout(
                settings.read_timeout, connect=settings.connect_timeout, pool=None
            ),
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Sockets are closed whether or not this task is cancelled.
        with trio.CancelScope(shield=True):
            await self._client.__aexit__(kind, exc, traceback)

    @asynccontextmanager
    async def get(self, headers: dict[str, str]) -> AsyncIterator[tuple[httpx.Response, str]]:
        """Send a GET and give the 200, 206 or 416 response, its body unread, with its URL for messages.

        Raises:
            HttpSourceError: any other status that will not change, a redirect that may not be followed, a
                web page, an encoded body.
            Transient: everything that may go away by itself.
        """
        asked = checks.display(self._final or self.url)
        with _translating(asked), trio.move_on_after(self._settings.head_timeout) as limit:
            response = await self._follow(headers)
        if limit.cancelled_caught:
            raise Transient(f"{asked}: the server does not answer in time")
        where = checks.display(response.request.url)
        try:
            if response.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                checks.check_body_kind(where, response.headers)
            yield response, where
        finally:
            with trio.CancelScope(shield=True):
                await response.aclose()

    def body(self, response: httpx.Response, where: str, length: int) -> Body:
        """The body of a response, which must have so many bytes and come at the lowest rate at least."""
        patience = self._settings.read_timeout
        return Body(response, where, length, patience=patience, rate=self._lowest_rate)

    async def _follow(self, headers: dict[str, str]) -> httpx.Response:
        """Send the request along redirects, to a response that may be used."""
        remembered = self._final is not None
        url = self._final or self.url
        for _ in range(self._settings.max_redirects + 1):
            request = self._client.build_request(
                "GET",
                url,
                headers={"Accept": "*/*", "Accept-Encoding": "identity", **headers},
                extensions={"trace": watch},
            )
            with awaiting_head(checks.display(url)):
                response = await self._client.send(request, stream=True)
            status = response.status_code
            if status in (200, 206, 416):
                self._final = url
                return response
            with trio.CancelScope(shield=True):
                await response.aclose()
            if status in _REDIRECTS:
                url = checks.redirect_target(url, response.headers.get("location"))
            elif status >= 500 or status in _TRANSIENT:
                wait = checks.retry_after(response.headers)
                raise Transient(
                    f"{checks.display(url)}: {_status(response)}",
                    wait=wait,
                    refused=status in _REFUSALS,
                )
            elif remembered:
                remembered, self._final, url = False, None, self.url
            else:
                raise HttpSourceError(
                    f"{checks.display(url)}: {_status(response)}",
                    hint="the file is not there for us: check the manifest's download_url",
                )
        raise HttpSourceError(
            f"{checks.display(self.url)}: more than {self._settings.max_redirects} redirects"
        )


async def _check_redirect(response: httpx.Response) -> None:
    """Look at a Location before httpx does, to which a bad one is an error of the connection."""
    if response.has_redirect_location:
        checks.redirect_target(response.request.url, response.headers["location"])


@contextmanager
def _translating(where: str) -> Iterator[None]:
    """Sort the errors of httpx into the two kinds."""
    try:
        yield
    except httpx.TimeoutException as exc:
        raise Transient(f"{where}: the server does not answer in time") from exc
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, ValueError) as exc:
        # A ValueError is a host name, or a header, that one of the libraries below cannot encode.
        raise HttpSourceError(f"{where}: {exc}") from exc
    except httpx.HTTPError as exc:
        raise _translated(exc, where) from exc


def _translated(exc: httpx.HTTPError, where: str) -> Exception:
    """What went wrong, as the innermost error that says something tells it."""
    text = ""
    link: BaseException | None = exc
    while link is not None:
        text = _words(link) or text
        if isinstance(link, ssl.SSLCertVerificationError):
            return HttpSourceError(
                f"{where}: its certificate is not valid: {link.verify_message}",
                hint="the server's certificate must be signed by an authority that this machine trusts",
            )
        link = link.__cause__ or link.__context__
    return Transient(f"{where}: {text or type(exc).__name__}")


def _words(error: BaseException) -> str:
    """What an error says; of several attempts to connect, one for each address of a host, what each of them ended with."""
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(dict.fromkeys(map(_words, error.exceptions)))
    if isinstance(error, ConnectionError) and error.errno is not None:
        return os.strerror(error.errno)  # without the address, which the URL has
    return str(error)


def _status(response: httpx.Response) -> str:
    return f"HTTP {response.status_code} {response.reason_phrase[:60]}".rstrip()
