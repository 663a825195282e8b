"""Graphics processors and their memory: NVIDIA's through its library, AMD's through sysfs, Jetson's by its board.

The first that finds any wins: no machine that matters here has processors of two makers. NVIDIA's library is
reached through nvidia-ml-py, the extra ``nvidia``; without it only the names are known.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from peatnet.deploy.hardware import MIB, Gpu
from peatnet.deploy.sysfiles import read_line, read_number, read_text
from peatnet.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_GPUS: Final = 16
"""More are not told of; larger machines are clusters of their own."""

_CARD: Final = re.compile(r"card\d+")
_MODEL: Final = re.compile(r"^Model:\s*(.+)$", re.MULTILINE)

Maker = Literal["nvidia", "amd"]

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """The graphics processors of a machine, whose they are, and how they were found."""

    gpus: tuple[Gpu, ...]
    maker: Maker | None
    how: str


def find_gpus(root: Path, ram_mb: int) -> Found:
    """The graphics processors of this machine.

    Args:
        root: the directory that stands for ``/``.
        ram_mb: main memory, which is video memory too where the two are one.
    """
    return _by_nvml(ram_mb) or _by_board(root, ram_mb) or _by_nvidia_names(root) or _amd(root)


def _by_nvml(ram_mb: int) -> Found | None:
    try:
        import pynvml  # noqa: PLC0415  # an extra: most machines lack it
    except ImportError:
        return None
    try:
        with _library(pynvml):
            count = min(pynvml.nvmlDeviceGetCount(), MAX_GPUS)
            gpus = tuple(_nvml_gpu(pynvml, index, ram_mb) for index in range(count))
    except pynvml.NVMLError as exc:
        # Mostly: there is no driver.
        log.debug("NVML not usable", error=str(exc))
        return None
    return Found(gpus, "nvidia", "NVML") if gpus else None


@contextmanager
def _library(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _nvml_gpu(pynvml: Any, index: int, ram_mb: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    try:
        vram_mb = pynvml.nvmlDeviceGetMemoryInfo(handle).total // MIB
    except pynvml.NVMLError_NotSupported:
        # A processor without memory of its own, as in a Jetson: it uses main memory.
        vram_mb = ram_mb
    return Gpu(str(name.decode() if isinstance(name, bytes) else name)[:128], int(vram_mb))


def _by_board(root: Path, ram_mb: int) -> Found | None:
    compatible = read_text(root / "proc/device-tree/compatible")
    if "nvidia,tegra" not in compatible:
        return None
    board = read_line(root / "proc/device-tree/model") or "NVIDIA Tegra"
    return Found((Gpu(board, ram_mb),), "nvidia", "device tree; shares main memory")


def _by_nvidia_names(root: Path) -> Found | None:
    found = []
    for place in sorted((root / "proc/driver/nvidia/gpus").glob("*"))[:MAX_GPUS]:
        named = _MODEL.search(read_text(place / "information"))
        found.append(Gpu(named.group(1)[:128] if named else "NVIDIA GPU", 0))
    if not found:
        return None
    how = "the driver, which does not tell the memory; install nvidia-ml-py or set vram_mb"
    return Found(tuple(found), "nvidia", how)


def _amd(root: Path) -> Found:
    found: list[Gpu] = []
    cards = [card for card in (root / "sys/class/drm").glob("card*") if _CARD.fullmatch(card.name)]
    for card in sorted(cards, key=lambda card: int(card.name[4:])):
        device = card / "device"
        total = read_number(device / "mem_info_vram_total")
        if total and len(found) < MAX_GPUS:
            ids = f"{read_line(device / 'vendor', 8)}:{read_line(device / 'device', 8)}"
            name = read_line(device / "product_name") or f"AMD GPU {ids}"
            found.append(Gpu(name, total // MIB))
    return Found(tuple(found), "amd", "sysfs") if found else Found((), None, "no driver found")
