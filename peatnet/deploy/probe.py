"""Finding out what this machine has: from the system, from drivers where there are any, never by guessing.

What cannot be found out is 0 or missing, and ``found`` says why; ``[hardware]`` in config.toml sets it right.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from peatnet.deploy.gpus import find_gpus
from peatnet.deploy.hardware import MIB, Hardware, Overrides
from peatnet.deploy.sysfiles import read_text
from peatnet.log import get_logger

if TYPE_CHECKING:
    from peatnet.deploy.gpus import Found

_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
"""What other systems call those that Linux, and with it manifests, call so."""

_CPU_NAME: Final = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)
_OS_NAME: Final = re.compile(r'^PRETTY_NAME="?([^"\n]+)"?$', re.MULTILINE)

_TENSORRT: Final = (
    "usr/lib/*/libnvinfer.so*",
    "usr/lib/libnvinfer.so*",
    "usr/lib64/libnvinfer.so*",
)

log = get_logger(__name__)


class HardwareProbe:
    """Looks once, and at the free disk anew each time.

    Args:
        data_dir: where models would be kept; it need not exist yet.
        overrides: what the operator says instead.
        root: the directory that stands for ``/`` where kernel and drivers are asked through files.
    """

    def __init__(
        self, data_dir: Path, overrides: Overrides | None = None, *, root: Path = Path("/")
    ) -> None:
        self._data_dir = data_dir
        self._overrides = overrides or Overrides()
        self._root = root
        self._lasting: Hardware | None = None

    def read(self) -> Hardware:
        """What this machine has now. Blocks as `lasting` does, and on the file system; any thread may call it."""
        now = replace(self._found(), free_disk_mb=free_disk_mb(self._data_dir))
        return now.overridden(self._overrides)

    def lasting(self) -> Hardware:
        """What does not change: all but the free disk, which is 0 here. Blocks the first time only, perhaps for a second."""
        return self._found().overridden(self._overrides)

    def _found(self) -> Hardware:
        if self._lasting is None:
            self._lasting = self._look()
        return self._lasting

    def _look(self) -> Hardware:
        ram_mb = psutil.virtual_memory().total // MIB
        gpus = find_gpus(self._root, ram_mb)
        name, name_found = _os_name(self._root)
        cpu, cpu_found = _cpu_name(self._root)
        machine = platform.machine()
        providers, providers_found = _providers(gpus, self._root)
        hardware = Hardware(
            os=name,
            arch=_ARCHITECTURES.get(machine.lower(), machine),
            cpu=cpu,
            cores=psutil.cpu_count() or 1,
            ram_mb=ram_mb,
            free_disk_mb=0,
            gpus=gpus.gpus,
            vram_mb=max((gpu.vram_mb for gpu in gpus.gpus), default=0),
            execution_providers=providers,
            found={
                "os": name_found,
                "arch": "uname",
                "cpu": cpu_found,
                "cores": "the kernel",
                "ram_mb": "the kernel",
                "free_disk_mb": "statvfs",
                "gpus": gpus.how,
                "vram_mb": gpus.how,
                "execution_providers": providers_found,
            },
        )
        log.debug("hardware", **hardware.as_json())
        return hardware


def probe(
    data_dir: Path, overrides: Overrides | None = None, *, root: Path = Path("/")
) -> Hardware:
    """What this machine has, looked at once; see :class:`HardwareProbe`."""
    return HardwareProbe(data_dir, overrides, root=root).read()


def free_disk_mb(directory: Path) -> int:
    """MiB that an ordinary user may still write where the directory is, or would be; 0 where that cannot be told."""
    for place in (directory, *directory.parents):
        try:
            return shutil.disk_usage(place).free // MIB
        except FileNotFoundError:
            continue
        except OSError as exc:
            log.warning("free disk not known", path=str(place), error=exc.strerror)
            break
    return 0


def _os_name(root: Path) -> tuple[str, str]:
    """The operating system's name and kernel, and how it was found."""
    named = _OS_NAME.search(read_text(root / "etc/os-release"))
    kernel = f"{platform.system()} {platform.release()}"
    return (f"{named.group(1)}, {kernel}", "os-release") if named else (kernel, "uname")


def _cpu_name(root: Path) -> tuple[str, str]:
    """The processor's name, and how it was found."""
    named = _CPU_NAME.search(read_text(root / "proc/cpuinfo"))
    if named:
        return named.group(1).strip(), "/proc/cpuinfo"
    # Arm's kernels name the board and not the processor.
    if board := read_text(root / "proc/device-tree/model"):
        return board, "device tree"
    return platform.processor() or platform.machine(), "uname"


def _providers(found: Found, root: Path) -> tuple[tuple[str, ...], str]:
    """What can run a model here, best first, and how that is known."""
    names: list[str] = []
    if found.maker == "nvidia":
        # The engine's library comes with JetPack and with containers, never with the driver alone.
        if any(path for pattern in _TENSORRT for path in root.glob(pattern)):
            names.append("tensorrt")
        names.append("cuda")
    # The compute interface of the amdgpu driver, which ROCm needs.
    if found.maker == "amd" and os.path.lexists(root / "dev/kfd"):
        names.append("rocm")
    return (*names, "cpu"), "drivers" if names else "no driver of a GPU found"
