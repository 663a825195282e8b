"""What an HTTP server may answer, checked before a byte of its body is used. Pure functions.

The rules of RFC 9110: ranges (section 14), conditional ranges (13.1.5), redirects (15.4). Stricter than it where a
lenient reading could put wrong bytes into a file: a range must be exactly the one that was asked for, and the
total must be the size that the manifest gives.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx

from peatnet.errors import HttpSourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_URL = 4096
# A validator is sent back with every request and is kept beside a partial file.
MAX_VALIDATOR = 512
# 20 digits hold any size below 2**64; longer ones are refused before they are parsed.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20}|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,20})")
_REDIRECT_HINT = "the server there must lead to the file's own http:// or https:// address"
_WEB_PAGES = ("text/html", "application/xhtml+xml")


def parse_url(text: str) -> httpx.URL:
    """An absolute http or https URL, without its fragment.

    Raises:
        HttpSourceError: it is another scheme, has no host, is too long, or is no URL at all.
    """
    if len(text) > MAX_URL:
        raise HttpSourceError(f"the URL is longer than {MAX_URL} characters: {text[:80]}...")
    try:
        url = httpx.URL(text)
        fault = _fault(url)
    except (httpx.InvalidURL, ValueError) as exc:
        raise HttpSourceError(f"{text!r} is not a URL: {exc}") from exc
    if fault is not None:
        raise HttpSourceError(
            f"{text!r}: {fault}", hint="publish the model with an http:// or https:// download_url"
        )
    return url.copy_with(fragment=None)


def _fault(url: httpx.URL) -> str | None:
    """Why nothing can be fetched from there. Raises httpx.InvalidURL or ValueError where the URL is none."""
    host = url.host  # decoded only now, by rules that the constructor does not know
    if url.scheme not in ("http", "https"):
        return "only http and https URLs can be fetched"
    if not host:
        return "it names no host"
    if url.port is not None and not 0 < url.port < 65536:
        return "it names no port that there is"
    return None


def redirect_target(url: httpx.URL, location: str | None) -> httpx.URL:
    """Where a redirect leads, checked like the first URL.

    Raises:
        HttpSourceError: there is no Location, or it is no URL, or it leads away from http and https, or from https to
            http; with the URL that redirected.
    """
    if not location:
        raise HttpSourceError(f"{display(url)}: a redirect without a Location")
    if len(location) > MAX_URL:
        raise HttpSourceError(
            f"{display(url)}: redirects to a URL longer than {MAX_URL} characters"
        )
    try:
        target = url.join(location).copy_with(fragment=None)
        fault = _fault(target)
    except (httpx.InvalidURL, ValueError) as exc:
        raise HttpSourceError(
            f"{display(url)}: redirects to {_without_secrets(location)!r}, which is no URL",
            hint=_REDIRECT_HINT,
        ) from exc
    if fault is not None:
        raise HttpSourceError(
            f"{display(url)}: redirects to {display(target)!r}: {fault}", hint=_REDIRECT_HINT
        )
    if url.scheme == "https" and target.scheme != "https":
        raise HttpSourceError(
            f"{display(url)}: redirects from https down to {display(target)}",
            hint="the server must offer the file over https all the way",
        )
    return target


def display(url: httpx.URL) -> str:
    """The URL for a message: without the user, password, query and fragment, which may be secrets."""
    shown = str(url.copy_with(username=None, password=None, query=None, fragment=None))
    return shown if len(shown) <= 200 else shown[:200] + "..."


def _without_secrets(text: str) -> str:
    """What ``display`` shows, of a text that is no URL."""
    shown = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", text, maxsplit=1)[0])
    return shown if len(shown) <= 200 else shown[:200] + "..."


def check_body_kind(where: str, headers: Mapping[str, str]) -> None:
    """Refuse a body that is a web page, or is encoded.

    Raises:
        HttpSourceError: with what the server sent in place of the file.
    """
    kind = headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if kind in _WEB_PAGES:
        raise HttpSourceError(
            f"{where}: the server sent a web page ({kind}), not the file",
            hint="download_url must be the file's own address, reachable without a login",
        )
    encodings = [part.strip().lower() for part in headers.get("content-encoding", "").split(",")]
    if strange := [part for part in encodings if part not in ("", "identity")]:
        raise HttpSourceError(
            f"{where}: the server sent the file in Content-Encoding {strange[0][:40]!r}, unasked",
            hint="switch compression off for this file on the server",
        )


def check_length(where: str, headers: Mapping[str, str], expected: int) -> None:
    """Refuse a body whose declared length is not the expected one; an undeclared length passes.

    Raises:
        HttpSourceError: naming both lengths.
    """
    declared = headers.get("content-length")
    if declared is None:
        return
    # The HTTP library has refused what is no number.
    if declared.strip().lstrip("0") != str(expected):
        raise HttpSourceError(
            f"{where}: the server declares {declared[:24]} bytes, not {expected}",
            hint="the file there is not the one that the manifest describes",
        )


def check_range(where: str, headers: Mapping[str, str], *, start: int, end: int, size: int) -> None:
    """Check the head of a 206 answer to ``bytes=start-(end-1)``.

    Args:
        where: the URL, for messages.
        headers: of the response.
        start: first byte asked for.
        end: one past the last byte asked for.
        size: the whole file's size, from the manifest.

    Raises:
        HttpSourceError: another range, another total size, or no (single) range at all.
    """
    text = headers.get("content-range", "").strip()
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        raise HttpSourceError(f"{where}: a partial answer with Content-Range {text[:60]!r}")
    if match[3] != "*" and int(match[3]) != size:
        raise HttpSourceError(
            f"{where}: the file there has {int(match[3])} bytes, not {size}",
            hint="the file there is not the one that the manifest describes",
        )
    if (int(match[1]), int(match[2])) != (start, end - 1):
        raise HttpSourceError(
            f"{where}: asked for bytes {start}-{end - 1}, answered with {match[1]}-{match[2]}"
        )
    check_length(where, headers, end - start)


def too_short(where: str, headers: Mapping[str, str], size: int) -> HttpSourceError:
    """The error for a 416 answer: our range lies beyond the end of what the server has."""
    match = _UNSATISFIED.fullmatch(headers.get("content-range", "").strip())
    found = f"has {int(match[1])} bytes" if match else "is shorter"
    return HttpSourceError(
        f"{where}: the file there {found}, the manifest says {size}",
        hint="the file there is not the one that the manifest describes",
    )


def validator(headers: Mapping[str, str]) -> str | None:
    """What to send as If-Range (RFC 9110 13.1.5): a strong ETag, else Last-Modified, else None."""
    etag = headers.get("etag", "").strip()
    if len(etag) > 2 and etag.startswith('"') and etag.endswith('"') and can_be_sent(etag):
        return etag
    modified = headers.get("last-modified", "").strip()
    return modified if can_be_sent(modified) else None


def can_be_sent(validator: str) -> bool:
    """Whether this can be the value of a header: a server may send, and a disk may hold, what cannot."""
    return 0 < len(validator) <= MAX_VALIDATOR and validator.isascii() and validator.isprintable()


def is_another_version(known: str | None, headers: Mapping[str, str]) -> bool:
    """Whether an answer's validator contradicts ``known``, one of an earlier answer; silence does not.

    A server that knows no If-Range answers 206 whatever the file has become. A date says nothing about an ETag: a
    206 need not carry both.
    """
    found = validator(headers)
    if known is None or found is None or known.startswith('"') != found.startswith('"'):
        return False
    return known != found


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks us to wait (RFC 9110 10.2.3, the form with a number); 0 when it does not."""
    text = headers.get("retry-after", "").strip()
    return float(text) if re.fullmatch(r"\d{1,6}", text) else 0.0
