"""What a machine has, and what a model would need besides. Pure: how it is found out is in ``probe``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peatnet.models import ModelManifest

MIB: Final = 1024 * 1024

OVERRIDDEN: Final = "config.toml"
"""How a value was found that the operator gave."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics processor.

    Attributes:
        name: as its driver calls it.
        vram_mb: its memory in MiB; 0 where that could not be found out.
    """

    name: str
    vram_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the operator says of the machine, in place of what is found; None: find it out."""

    arch: str | None = None
    cpu: str | None = None
    cores: int | None = None
    ram_mb: int | None = None
    vram_mb: int | None = None
    free_disk_mb: int | None = None
    execution_providers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a machine has. Sizes are in MiB, which is what manifests mean by MB.

    Attributes:
        os: the operating system.
        arch: the processor's architecture as `uname -m` names it on Linux.
        cpu: the processor's name.
        cores: logical processors.
        ram_mb: main memory, used or not.
        free_disk_mb: what is free where the data directory is.
        gpus: the graphics processors.
        vram_mb: the video memory that one model can have: that of the largest processor, since few runtimes
            spread a model over several.
        execution_providers: what can run a model, best first, in the words of manifests.
        found: for each of the above, how it was found out.
    """

    os: str
    arch: str
    cpu: str
    cores: int
    ram_mb: int
    free_disk_mb: int
    gpus: tuple[Gpu, ...] = ()
    vram_mb: int = 0
    execution_providers: tuple[str, ...] = ("cpu",)
    found: Mapping[str, str] = field(default_factory=dict)

    def overridden(self, overrides: Overrides) -> Hardware:
        """The same machine as the operator describes it."""
        given = {name: value for name, value in asdict(overrides).items() if value is not None}
        found = {**self.found, **dict.fromkeys(given, OVERRIDDEN)}
        return replace(self, **given, found=found)

    def can_run(self, manifest: ModelManifest) -> bool:
        """Whether a model's requirements are met; room on the disk is not among them."""
        return manifest.can_run_on(self.vram_mb, self.ram_mb, self.arch)

    def as_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {
            "os": self.os,
            "arch": self.arch,
            "cpu": self.cpu,
            "cores": self.cores,
            "ram_mb": self.ram_mb,
            "free_disk_mb": self.free_disk_mb,
            "gpus": [asdict(gpu) for gpu in self.gpus],
            "vram_mb": self.vram_mb,
            "execution_providers": list(self.execution_providers),
            "found": dict(self.found),
        }


def shortfalls(
    manifest: ModelManifest, hardware: Hardware, *, missing_bytes: int | None = None
) -> list[str]:
    """Why a model cannot be fetched to and run on a machine, in words; empty where it can.

    But for the disk this agrees with ``manifest.can_run_on``.

    Args:
        manifest: the model's.
        hardware: the machine's.
        missing_bytes: how much of the model is still to be fetched; None for all of it.
    """
    needs, found = manifest.requirements, []
    if hardware.arch not in needs.architectures:
        wanted = " or ".join(needs.architectures) or "no architecture at all"
        found.append(f"wrong architecture: it runs on {wanted}, this is {hardware.arch}")
    if hardware.ram_mb < needs.min_ram_mb:
        found.append(f"too little RAM: it needs {needs.min_ram_mb} MB, {hardware.ram_mb} are here")
    if hardware.vram_mb < needs.min_vram_mb:
        found.append(
            f"too little VRAM: it needs {needs.min_vram_mb} MB, {hardware.vram_mb} are here"
        )
    missing = manifest.size_bytes if missing_bytes is None else missing_bytes
    missing_mb = math.ceil(missing / MIB)
    if hardware.free_disk_mb < missing_mb:
        found.append(f"too little disk: it needs {missing_mb} MB, {hardware.free_disk_mb} are free")
    return found
