"""Every error that peatnet raises on purpose, its slug, and the exit code it ends a command with.

An error says what happened and where (its message) and what to do about it (its hint). The slug is the
stable name that scripts and the control API use; the exit code is what ``peatnet`` ends with. Codes are
never reused; docs/exit-codes.md lists them and a test holds the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

# What pydantic's kinds of errors mean to the person who wrote the value, filled in with the bounds that they name.
_COMPLAINTS = {
    "extra_forbidden": "there is no such key",
    "missing": "is missing",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table of keys and values",
    "model_type": "must be a table of keys and values",
    "model_attributes_type": "must be a table of keys and values",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be UTF-8",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "enum": "must be {expected}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


class PeatnetError(Exception):
    """The base of all errors that peatnet raises on purpose.

    Args:
        message: what happened, and where; one line, no full stop needed.
        hint: what the reader can do about it; one line, or None where there is nothing to say.
    """

    slug: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def fields(self) -> dict[str, Any]:
        """What JSON says of it: its slug, its message and its hint."""
        return {"slug": self.slug, "message": self.message, "hint": self.hint}


class UsageError(PeatnetError):
    """The command or the call was put together wrongly."""

    slug = "usage"
    exit_code = 2


class ConfigError(PeatnetError):
    """config.toml or an environment variable holds something that cannot be used."""

    slug = "config"
    exit_code = 10


class InvalidManifest(PeatnetError):
    """A manifest, or a part of one, breaks a rule; the message names the field."""

    slug = "invalid-manifest"
    exit_code = 11


class NotFound(PeatnetError):
    """There is no such model, blob, file or peer here."""

    slug = "not-found"
    exit_code = 12


class Ambiguous(PeatnetError):
    """A shortened hash or a model name fits more than one thing."""

    slug = "ambiguous"
    exit_code = 13


class AlreadyExists(PeatnetError):
    """Something is there already and would have been overwritten."""

    slug = "already-exists"
    exit_code = 14


class IntegrityError(PeatnetError):
    """Bytes are not what their hash, size or chunk table says they are."""

    slug = "integrity"
    exit_code = 15


class SignatureError(PeatnetError):
    """A record's signature does not verify."""

    slug = "signature"
    exit_code = 16


class UntrustedPublisher(PeatnetError):
    """The publisher of a record is not among the trusted ones."""

    slug = "untrusted-publisher"
    exit_code = 17


class StaleRecord(PeatnetError):
    """A record is older than one that is known already."""

    slug = "stale-record"
    exit_code = 18


class NoSource(PeatnetError):
    """No peer and no server delivered the bytes."""

    slug = "no-source"
    exit_code = 19


class HttpSourceError(NoSource):
    """The HTTP server behind a download_url answered with something that is not the blob."""

    slug = "http-source"
    exit_code = 20


class PeerLost(NoSource):
    """A peer went away, ended the stream, or stopped answering."""

    slug = "peer-lost"
    exit_code = 29


class DiskFull(PeatnetError):
    """The quota, the free-space floor or the file system leaves no room."""

    slug = "disk-full"
    exit_code = 21


class StorageError(PeatnetError):
    """The operating system refused a file operation in the data directory."""

    slug = "storage"
    exit_code = 22


class DataDirLocked(PeatnetError):
    """Another process works in the same data directory: a node, or a command where none runs."""

    slug = "data-dir-locked"
    exit_code = 23


class ListenError(PeatnetError):
    """A listening address cannot be had: in use, not this machine's, or not permitted."""

    slug = "listen"
    exit_code = 24


class NodeUnreachable(PeatnetError):
    """The running node does not answer on its control socket."""

    slug = "node-unreachable"
    exit_code = 25


class InUse(PeatnetError):
    """The thing is pinned, being fetched or being served, and cannot be removed now."""

    slug = "in-use"
    exit_code = 26


class RemoteProtocolError(PeatnetError):
    """Another machine sent something that breaks the protocol."""

    slug = "remote-protocol"
    exit_code = 27


class LocalProtocolError(PeatnetError):
    """Our own code used a protocol object wrongly: a bug in peatnet."""

    slug = "local-protocol"
    exit_code = 28


class BadModelFile(PeatnetError):
    """A model file's header breaks its format's rules, or claims more than the file holds."""

    slug = "bad-model-file"
    exit_code = 30


class DeployFailed(PeatnetError):
    """A deployment that was waited for failed on some node."""

    slug = "deploy-failed"
    exit_code = 31


class DeployTimeout(PeatnetError):
    """A deployment that was waited for was not done in time; it goes on."""

    slug = "deploy-timeout"
    exit_code = 32


def complaint(error: Mapping[str, Any]) -> str:
    """What is wrong with a field, for the person who wrote it: our own checks' words, or what pydantic's mean.

    Args:
        error: an entry of what ``ValidationError.errors()`` returns.
    """
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    bounds = {name: _plain(bound) for name, bound in error.get("ctx", {}).items()}
    if bounds.get("min_length") == 1:
        return "must not be empty"
    known = _COMPLAINTS.get(error["type"])
    return str(error["msg"]) if known is None else known.format_map(bounds)


def _plain(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _all_classes(base: type[PeatnetError]) -> list[type[PeatnetError]]:
    found = [base]
    for child in base.__subclasses__():
        found.extend(_all_classes(child))
    return found


def error_classes() -> dict[str, type[PeatnetError]]:
    """All error classes by slug, the base included; one without a slug of its own counts as what it derives from."""
    return {cls.slug: cls for cls in _all_classes(PeatnetError) if "slug" in vars(cls)}
