"""A loader that is an HTTP request to a server on this machine or near it."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
import trio

from peatnet.deploy.loaders import LoadResult, Tail, fill_body, fill_url

if TYPE_CHECKING:
    from peatnet.deploy.loaders import HttpLoader, LoadJob

_MAX_REPLY: Final = 4 * 1024 * 1024
"""Bytes of an answer, which is read to its end: some servers report progress in it."""


async def send_request(loader: HttpLoader, job: LoadJob) -> LoadResult:
    """Send the request, and read the answer. Redirects are not followed, and proxies not used.

    Cancellation: the connection is closed.
    """
    reply = _Reply()
    reason: str | None = None
    with trio.move_on_after(loader.timeout_s) as limit:
        reason = await _send(loader, job, reply)
    if limit.cancelled_caught:
        reason = f"{loader} took longer than {loader.timeout_s:g} s"
    return LoadResult(reason, reply.tail.lines())


class _Reply:
    """What came of an answer."""

    def __init__(self) -> None:
        self.tail = Tail()
        self.size = 0

    def feed(self, data: bytes) -> None:
        self.tail.feed(data)
        self.size += len(data)


async def _send(loader: HttpLoader, job: LoadJob, reply: _Reply) -> str | None:
    """Send it without a limit of time; returns why the model is not loaded."""
    body = None if loader.body is None else fill_body(loader.body, job)
    # What is kept of the answer is to be read by people.
    headers = {"Accept-Encoding": "identity", **loader.headers}
    try:
        context = _context(loader.url)
    except OSError as exc:
        why = f"the certificate authorities cannot be read: {exc.strerror or exc}"
        return f"{loader} failed: {why} (SSL_CERT_FILE and SSL_CERT_DIR may name them)"
    try:
        async with (
            httpx.AsyncClient(verify=context, trust_env=False, timeout=None) as client,  # noqa: S113  # the caller's limit is for all of it
            client.stream(
                loader.method, fill_url(loader.url, job), json=body, headers=headers
            ) as response,
        ):
            # Canceled and not left: so all of httpx's generators, one within another, are closed at once.
            with trio.CancelScope() as enough:
                async for data in response.aiter_raw():
                    reply.feed(data)
                    if reply.size > _MAX_REPLY:
                        enough.cancel()
            if enough.cancelled_caught:
                return f"{loader} answered with more than {_MAX_REPLY} bytes"
    # A path need not be UTF-8, nor a header; what the operating system refuses is not always wrapped.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
        return f"{loader} failed: {str(exc) or type(exc).__name__}"
    return None if response.is_success else f"{loader} answered {response.status_code}"


def _context(url: str) -> ssl.SSLContext:
    """What a server's certificate is held against. Without TLS nothing is read for it.

    Raises:
        OSError: the certificate authorities cannot be read.
    """
    if urlsplit(url).scheme == "https":
        return _authorities()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody, and is not asked


@cache
def _authorities() -> ssl.SSLContext:
    """The system's choice of certificate authorities, else the usual ones; reading them takes a while.

    Raises:
        OSError: they cannot be read; the next time they are looked for again.
    """
    return httpx.create_ssl_context(trust_env=True)
