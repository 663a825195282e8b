"""The probe on trees of files that look like /sys, /proc and /etc, on this machine, and with a driver library made here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from peatnet.config import load_config
from peatnet.deploy.hardware import MIB, Gpu, Overrides
from peatnet.deploy.probe import HardwareProbe, free_disk_mb, probe
from peatnet.errors import ConfigError

RAM_MB = psutil.virtual_memory().total // MIB


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_this_machine() -> None:
    found = probe(Path.cwd())
    assert found.ram_mb == RAM_MB
    assert found.cores == psutil.cpu_count()
    assert found.free_disk_mb > 0
    assert found.execution_providers[-1] == "cpu"
    assert found.cpu
    assert found.os
    shown = found.as_json()
    assert set(shown) == {*shown["found"], "found"}
    assert json.loads(json.dumps(shown)) == shown


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = probe(tmp_path, root=tmp_path)
    assert (found.gpus, found.vram_mb, found.execution_providers) == ((), 0, ("cpu",))
    assert found.found["vram_mb"] == "no driver found"
    assert found.cpu
    assert found.os
    assert found.found["os"] == "uname"


def test_names_of_processor_and_system(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: Fast 9000\nflags\t: x\n")
    put(tmp_path, "etc/os-release", 'ID=x\nPRETTY_NAME="X Linux 7"\n')
    found = probe(tmp_path, root=tmp_path)
    assert found.cpu == "Fast 9000"
    assert found.os.startswith("X Linux 7, ")
    assert found.found["os"] == "os-release"


def test_amd_by_sysfs(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/drm/card10/device/mem_info_vram_total", f"{8 * 1024 * MIB}\n")
    put(tmp_path, "sys/class/drm/card10/device/vendor", "0x1002\n")
    put(tmp_path, "sys/class/drm/card10/device/device", "0x744c\n")
    put(tmp_path, "sys/class/drm/card2/device/mem_info_vram_total", f"{16 * 1024 * MIB}\n")
    put(tmp_path, "sys/class/drm/card2/device/product_name", "Radeon\x1b[31m Pro\n")
    put(tmp_path, "sys/class/drm/card3/device/mem_info_vram_total", "a lot\n")
    put(tmp_path, "sys/class/drm/card2-DP-1/device/mem_info_vram_total", "99999999999999\n")
    put(tmp_path, "sys/class/drm/renderD128/device/mem_info_vram_total", "99999999999999\n")
    found = probe(tmp_path, root=tmp_path)
    assert found.gpus == (Gpu("Radeon?[31m Pro", 16384), Gpu("AMD GPU 0x1002:0x744c", 8192))
    assert found.vram_mb == 16384
    assert found.execution_providers == ("cpu",)
    assert found.found["vram_mb"] == "sysfs"
    put(tmp_path, "dev/kfd", "")
    assert probe(tmp_path, root=tmp_path).execution_providers == ("rocm", "cpu")


def test_a_jetson_shares_its_memory(tmp_path: Path) -> None:
    board = "NVIDIA Jetson Orin Nano Developer Kit"
    put(tmp_path, "proc/device-tree/model", f"{board}\0")
    put(tmp_path, "proc/device-tree/compatible", "nvidia,p3768\0nvidia,tegra234\0")
    found = probe(tmp_path, root=tmp_path)
    assert found.gpus == (Gpu(board, RAM_MB),)
    assert found.vram_mb == RAM_MB
    assert found.cpu == board
    assert found.execution_providers == ("cuda", "cpu")
    put(tmp_path, "usr/lib/aarch64-linux-gnu/libnvinfer.so.10", "")
    assert probe(tmp_path, root=tmp_path).execution_providers == ("tensorrt", "cuda", "cpu")


def test_another_board_is_no_gpu(tmp_path: Path) -> None:
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5\0")
    put(tmp_path, "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    found = probe(tmp_path, root=tmp_path)
    assert (found.cpu, found.gpus) == ("Raspberry Pi 5", ())


def test_a_driver_that_only_names_its_processors(tmp_path: Path) -> None:
    put(tmp_path, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t GeForce\nIRQ: 1")
    put(tmp_path, "proc/driver/nvidia/gpus/0000:02:00.0/information", "")
    found = probe(tmp_path, root=tmp_path)
    assert found.gpus == (Gpu("GeForce", 0), Gpu("NVIDIA GPU", 0))
    assert found.vram_mb == 0
    assert "set vram_mb" in found.found["vram_mb"]
    assert found.execution_providers == ("cuda", "cpu")


NVML = """
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "Not Supported"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
    name[0] = 'G'; name[1] = '0' + (char)(long)handle; name[2] = 0; return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory *info) {
    if ((long)handle == 3) return 3; /* not supported: no memory of its own */
    info->total = (unsigned long long)(long)handle * 4096 * 1024 * 1024;
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_nvidia_by_its_library(tmp_path: Path) -> None:
    pytest.importorskip("pynvml")
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True, timeout=60
    )
    code = "from pathlib import Path; from peatnet.deploy.probe import probe; import json\n"
    code += (
        f"print(json.dumps(probe(Path({str(tmp_path)!r}), root=Path({str(tmp_path)!r})).as_json()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["gpus"] == [
        {"name": "G1", "vram_mb": 4096},
        {"name": "G2", "vram_mb": 8192},
        {"name": "G3", "vram_mb": RAM_MB},
    ]
    assert found["vram_mb"] == max(8192, RAM_MB)
    assert found["execution_providers"] == ["cuda", "cpu"]
    assert found["found"]["vram_mb"] == "NVML"


def test_the_probe_looks_once_but_for_the_disk(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/drm/card0/device/mem_info_vram_total", f"{1024 * MIB}\n")
    looking = HardwareProbe(tmp_path, Overrides(cores=3), root=tmp_path)
    first = looking.read()
    shutil.rmtree(tmp_path / "sys")
    again = looking.read()
    assert (again.gpus, again.cores) == (first.gpus, 3)
    assert again.free_disk_mb > 0
    assert looking.lasting().free_disk_mb == 0


def test_the_disk_of_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_disk_mb(tmp_path / "not" / "yet") > 0
    # No directory can be below a file, so its disk is nobody's.
    put(tmp_path, "file", "")
    assert free_disk_mb(tmp_path / "file" / "below") == 0


def test_overrides_from_config(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        "[hardware]\nvram_mb = 12\narch = 'riscv64'\nexecution_providers = ['npu', 'cpu']\n"
        "ram_mb = 34\nfree_disk_mb = 56\ncpu = 'C'\ncores = 7\n"
    )
    found = probe(tmp_path, load_config(tmp_path).hardware.overrides(), root=tmp_path)
    assert (found.vram_mb, found.ram_mb, found.free_disk_mb) == (12, 34, 56)
    assert (found.arch, found.cpu, found.cores) == ("riscv64", "C", 7)
    assert found.execution_providers == ("npu", "cpu")
    assert found.found["vram_mb"] == "config.toml"
    assert found.found["os"] == "uname"


@pytest.mark.parametrize("line", ["vram_mb = -1", "cores = 0", "arch = ''", "gpu = 1"])
def test_overrides_that_cannot_be(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.toml").write_text(f"[hardware]\n{line}\n")
    with pytest.raises(ConfigError, match="hardware"):
        load_config(tmp_path)


def test_the_verb(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[hardware]\nvram_mb = 4711\n")
    words = [sys.executable, "-m", "peatnet", "hardware", "--data-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("vram_mb")]
    assert line.split() == ["vram_mb", "4711", "MB", "config.toml"]
    done = subprocess.run(
        [*words, "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout)["vram_mb"] == 4711
    # It looks and makes nothing.
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
