"""What an operator can set: config.toml in the data directory, the environment, the command line.

The later wins: defaults, then config.toml, then PEATNET_DATA_DIR (for the directory alone), then what the
caller passes. docs/configuration.md describes each key.
"""

from __future__ import annotations

import os
import platform
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from peatnet.datadir import unusable
from peatnet.deploy.hardware import Overrides
from peatnet.errors import ConfigError, UsageError, complaint
from peatnet.loader_settings import LoaderSettings  # noqa: TC001  # pydantic reads annotations at run time
from peatnet.rates import Rate  # noqa: TC001  # likewise

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# A config.toml is written by hand; one larger than this is something else.
MAX_CONFIG_BYTES = 256 * 1024

DEFAULT_PORT = 7411

# 16 TiB: what is larger is a slip of the pen.
MAX_MEMORY_MB = 16 * 1024 * 1024

Word = Annotated[str, Field(min_length=1, max_length=128)]
Address = Annotated[str, Field(min_length=1, max_length=512)]
MAX_NODE_NAME = 64


def _one_line(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be one line, without spaces at its ends")
    return text


NodeName = Annotated[str, Field(min_length=1, max_length=MAX_NODE_NAME), AfterValidator(_one_line)]
PeerIdText = Annotated[str, Field(min_length=1, max_length=128)]


class BadSetting(UsageError):
    """What the caller of :func:`load_config` gave for a key cannot be used.

    Attributes:
        key: the setting's name; a command has an option for it.
        reason: what is wrong with the value.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class FetchPolicy(StrEnum):
    """Which trusted models a node fetches by itself."""

    ALL = "all"
    FITTING = "fitting"
    NONE = "none"


class HardwareConfig(BaseModel):
    """What this machine has, where that is not found out, or is found out wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: Word | None = None
    cpu: Word | None = None
    cores: int | None = Field(default=None, ge=1, le=65536)
    ram_mb: int | None = Field(default=None, ge=0, le=MAX_MEMORY_MB)
    vram_mb: int | None = Field(default=None, ge=0, le=MAX_MEMORY_MB)
    free_disk_mb: int | None = Field(default=None, ge=0, le=1024 * MAX_MEMORY_MB)
    execution_providers: tuple[Word, ...] | None = Field(default=None, max_length=32)

    def overrides(self) -> Overrides:
        """The same for the room that looks at the machine."""
        return Overrides(**self.model_dump())


class Config(BaseModel):
    """One node's settings. Sizes are in bytes, times in seconds, rates in bytes a second (None: no limit).

    Build it with :func:`load_config`, which reads config.toml; the constructor takes the keys as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path
    listen: list[Address] = Field(
        default_factory=lambda: [f"/ip4/0.0.0.0/tcp/{DEFAULT_PORT}"], min_length=1, max_length=16
    )
    peers: list[Address] = Field(default_factory=list, max_length=256)
    mdns: bool = True
    trusted_publishers: list[PeerIdText] = Field(default_factory=list, max_length=4096)
    fetch: FetchPolicy = FetchPolicy.FITTING
    name: NodeName | None = None
    quota_bytes: int | None = Field(default=None, ge=0)
    free_floor_bytes: int = Field(default=512 * 1024 * 1024, ge=0)
    give_up_after_s: float = Field(default=30.0, gt=0)
    http_fallback_after_s: float = Field(default=5.0, ge=0)
    bulk: bool = True
    bulk_port: int | None = Field(default=None, ge=0, le=65_535)
    upload_limit: Rate = None
    download_limit: Rate = None
    peer_upload_limit: Rate = None
    hardware: HardwareConfig = Field(default_factory=HardwareConfig)
    loaders: dict[Word, LoaderSettings] = Field(default_factory=dict, max_length=256)

    def parsed(self, key: str, parse: Callable[[str], T]) -> list[T]:
        """The entries of a list of texts that other rooms understand, and the command line has looked at before.

        Args:
            key: its name.
            parse: makes something of an entry, or raises UsageError.

        Raises:
            ConfigError: an entry means nothing.
        """
        found = []
        for text in getattr(self, key):
            try:
                found.append(parse(text))
            except UsageError as exc:
                raise ConfigError(
                    f"{config_path(self.data_dir)}: {key}: {exc.message}", hint=exc.hint
                ) from exc
        return found

    @property
    def node_name(self) -> str:
        """What the node is called: ``name``, else the machine's name."""
        host = "".join(char for char in platform.node() if char.isprintable())
        return self.name or host[:MAX_NODE_NAME] or "peatnet"


def default_data_dir() -> Path:
    """PEATNET_DATA_DIR, else peatnet's folder under XDG_DATA_HOME (the XDG base directory standard)."""
    if chosen := os.environ.get("PEATNET_DATA_DIR"):
        return Path(chosen)
    if base := os.environ.get("XDG_DATA_HOME"):
        return Path(base) / "peatnet"
    return Path.home() / ".local" / "share" / "peatnet"


def config_path(data_dir: Path) -> Path:
    """Where the settings of a data directory are."""
    return data_dir / "config.toml"


def load_config(data_dir: Path | None = None, **overrides: Any) -> Config:
    """The settings for one data directory.

    Args:
        data_dir: the data directory, or None for the default one.
        overrides: keys of :class:`Config`; None means "not given".

    Raises:
        ConfigError: config.toml cannot be read, or a key in it is unknown or has a value that cannot be used.
        BadSetting: an override is unknown or cannot be used.
        StorageError: the data directory cannot be looked into.
    """
    directory = (data_dir or default_data_dir()).expanduser().absolute()
    path = config_path(directory)
    settings: dict[str, Any] = _read_toml(path)
    if "data_dir" in settings:
        raise ConfigError(
            f"{path}: data_dir cannot be set here",
            hint="use --data-dir or PEATNET_DATA_DIR",
        )
    given = {key: value for key, value in overrides.items() if value is not None}
    settings |= given
    try:
        return Config(data_dir=directory, **settings)
    except ValidationError as exc:
        first = exc.errors()[0]
        if (name := str(first["loc"][0])) in given:
            raise BadSetting(name, complaint(first)) from exc
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path}: {key}: {complaint(first)}",
            hint="docs/configuration.md lists every key and its values",
        ) from exc


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        return {}  # opening the data directory says this better
    except OSError as exc:
        if not os.access(path.parent, os.R_OK | os.X_OK):
            raise unusable(path.parent, exc) from exc
        raise ConfigError(
            f"{path}: cannot be read: {exc.strerror}", hint="check its owner and mode"
        ) from exc
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
