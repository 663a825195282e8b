"""Loaders: what an operator configures so that a runtime takes up a new model. Pure: settings, texts and results.

A loader is found by name: that of the model, else of its type, else of its format; the most exact wins. What a
manifest says reaches a command through its environment only, and a request through placeholders that are quoted for
the place where they stand: a trusted publisher can name a model, but cannot make that name a part of a command.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import PurePath

DEFAULT_TIMEOUT_S: Final = 300.0

KEPT_BYTES: Final = 64 * 1024
"""Of a loader's output: the last ones."""

MAX_LINES: Final = 20
MAX_LINE_CHARS: Final = 240
"""Of a loader's output as it is reported, to other machines too."""

METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH"})
PLACEHOLDERS: Final = frozenset(
    {"model_id", "model_version", "model_path", "manifest_path", "previous_path"}
)

_MAX_DEPTH: Final = 16
_PLACEHOLDER: Final = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CommandLoader:
    """A program that loads a model and ends; exit code 0 means that it is loaded.

    Attributes:
        command: its name or path, and its arguments as they are.
        timeout_s: seconds after which it is ended and has failed.
    """

    command: tuple[str, ...]
    timeout_s: float = DEFAULT_TIMEOUT_S

    def __str__(self) -> str:
        return self.command[0]


@dataclass(frozen=True, slots=True)
class HttpLoader:
    """A request that makes a server load a model; an answer of 200 to 299 means that it is loaded.

    Attributes:
        url: where, http or https, with placeholders in its path and query.
        method: one of ``METHODS``.
        body: sent as JSON, with placeholders in its texts; None: no body.
        headers: sent as they are.
        timeout_s: seconds after which it has failed.
    """

    url: str
    method: str = "POST"
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = DEFAULT_TIMEOUT_S

    def __str__(self) -> str:
        # A query may hold a key that is nobody's business.
        return f"{self.method} {self.url.partition('?')[0]}"


LoaderConfig = CommandLoader | HttpLoader


@dataclass(frozen=True, slots=True)
class LoadJob:
    """What is to be loaded. Paths are absolute.

    Attributes:
        model_id: which model.
        version: which version of it.
        model_path: its file.
        manifest_path: its manifest as a JSON file; None where there is none.
        previous_path: the file that was in service before; None where none was.
    """

    model_id: str
    version: str
    model_path: PurePath
    manifest_path: PurePath | None = None
    previous_path: PurePath | None = None

    def values(self) -> dict[str, str]:
        """What each placeholder stands for; "" where there is nothing."""
        return {
            "model_id": self.model_id,
            "model_version": self.version,
            "model_path": str(self.model_path),
            "manifest_path": str(self.manifest_path or ""),
            "previous_path": str(self.previous_path or ""),
        }

    def environment(self) -> dict[str, str]:
        """The same for a command: MODEL_ID, MODEL_VERSION, MODEL_PATH, MANIFEST_PATH, PREVIOUS_PATH."""
        return {name.upper(): value for name, value in self.values().items()}


@dataclass(frozen=True, slots=True)
class LoadResult:
    """How a loader ended.

    Attributes:
        reason: why the model is not loaded, in words; None where it is.
        lines: the last lines that the loader gave out.
    """

    reason: str | None
    lines: tuple[str, ...] = ()

    @property
    def loaded(self) -> bool:
        """Whether the model is in service now."""
        return self.reason is None


class Tail:
    """Keeps the end of an output, however long that is."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """The output went on with this."""
        self._data += data
        # Cut now and then only, so that a byte is moved once and not with every piece.
        if len(self._data) > 2 * KEPT_BYTES:
            del self._data[:-KEPT_BYTES]

    def lines(self) -> tuple[str, ...]:
        """The last lines with anything in them, made fit to be shown and passed on."""
        text = bytes(self._data[-KEPT_BYTES:]).decode(errors="replace")
        # A progress bar writes its line anew after each carriage return: the last state of it counts.
        shown = [line.rstrip().rpartition("\r")[2] for line in text.split("\n")]
        return tuple(_fit(line) for line in shown if line.strip())[-MAX_LINES:]


def choose_loader(
    loaders: Mapping[str, LoaderConfig], model_id: str, model_type: str, model_format: str
) -> LoaderConfig | None:
    """The loader for a model: by its id, else its type, else its format; None where there is none."""
    for name in (model_id, model_type, model_format):
        if name in loaders:
            return loaders[name]
    return None


def check_url(url: str) -> None:
    """Check the address of a loader.

    Raises:
        ValueError: it is no http or https URL, or a placeholder in it is unknown, or stands where a model's name
            could lead the request to another server.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must begin with http:// or https:// and name a host")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("must not hold spaces or control characters; percent-encode them")
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or password; use headers")
    if _PLACEHOLDER.search(parts.netloc):
        raise ValueError("must not hold a placeholder in place of the host")
    _ = parts.port  # raises ValueError itself
    _check_text(url)


def check_body(body: object, depth: int = 1) -> None:
    """Check the body of a request.

    Raises:
        ValueError: it holds something that JSON does not know, is nested too deep, or a placeholder is unknown.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"must not be nested more than {_MAX_DEPTH} deep")
    if isinstance(body, str):
        _check_text(body)
    elif isinstance(body, dict):
        for item in body.values():
            check_body(item, depth + 1)
    elif isinstance(body, list):
        for item in body:
            check_body(item, depth + 1)
    elif isinstance(body, float) and not math.isfinite(body):
        raise ValueError("must not hold NaN or an infinity")
    elif not isinstance(body, int | float):
        raise ValueError(f"must not hold a {type(body).__name__}, which JSON does not know")


def fill_url(url: str, job: LoadJob) -> str:
    """The address with each placeholder replaced, percent-encoded so that it stays one part of the path."""
    return _filled(url, job.values(), lambda value: quote(value, safe=""))


def fill_body(body: Any, job: LoadJob) -> Any:
    """The body with each placeholder in its texts replaced."""
    if isinstance(body, str):
        return _filled(body, job.values(), str)
    if isinstance(body, dict):
        return {key: fill_body(item, job) for key, item in body.items()}
    if isinstance(body, list):
        return [fill_body(item, job) for item in body]
    return body


def _filled(text: str, values: Mapping[str, str], quoted: Callable[[str], str]) -> str:
    def one(match: re.Match[str]) -> str:
        literal, name = match.groups()
        return f"{{{literal}}}" if literal else quoted(values[name])

    return _PLACEHOLDER.sub(one, text)


def _check_text(text: str) -> None:
    unknown = {name for _, name in _PLACEHOLDER.findall(text) if name} - PLACEHOLDERS
    if unknown:
        known = _listed(f"{{{name}}}" for name in PLACEHOLDERS)
        name = min(unknown)
        raise ValueError(f"there is no placeholder {{{name}}}, only {known}; write {{{{{name}}}}}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _fit(line: str) -> str:
    cut = line[:MAX_LINE_CHARS]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
