from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from peatnet.deploy.hardware import MIB, Gpu, Hardware, Overrides, shortfalls
from peatnet.models import HardwareRequirements, ModelManifest, ModelType

megabytes = st.integers(0, 4) | st.integers(0, 2**32 - 1)
architecture = st.sampled_from(["x86_64", "aarch64", "riscv64"])


def machine(**others: Any) -> Hardware:
    given: dict[str, Any] = {
        "os": "Linux",
        "arch": "aarch64",
        "cpu": "Cortex",
        "cores": 4,
        "ram_mb": 4096,
        "free_disk_mb": 1000,
        "found": {"ram_mb": "the kernel"},
    }
    return Hardware(**given | others)


def manifest(size: int = 0, **requirements: Any) -> ModelManifest:
    return ModelManifest.new(
        "m",
        "M",
        ModelType.LLM,
        created_at="2025-12-02T10:11:12Z",
        size_bytes=size,
        requirements=HardwareRequirements(**requirements),
    )


@given(
    needs=st.tuples(megabytes, megabytes, st.lists(architecture, max_size=2)),
    has=st.tuples(megabytes, megabytes, architecture),
)
def test_it_falls_short_exactly_where_the_manifest_says_it_cannot_run(
    needs: tuple[int, int, list[str]], has: tuple[int, int, str]
) -> None:
    model = manifest(min_vram_mb=needs[0], min_ram_mb=needs[1], architectures=tuple(needs[2]))
    here = machine(vram_mb=has[0], ram_mb=has[1], arch=has[2])
    able = model.can_run_on(*has)
    assert (shortfalls(model, here) == []) is able
    assert here.can_run(model) is able


def test_every_reason_is_told() -> None:
    model = manifest(
        1001 * MIB, min_vram_mb=2048, min_ram_mb=8192, architectures=("x86_64", "riscv64")
    )
    assert shortfalls(model, machine()) == [
        "wrong architecture: it runs on x86_64 or riscv64, this is aarch64",
        "too little RAM: it needs 8192 MB, 4096 are here",
        "too little VRAM: it needs 2048 MB, 0 are here",
        "too little disk: it needs 1001 MB, 1000 are free",
    ]


def test_a_model_for_no_architecture_runs_nowhere() -> None:
    (reason,) = shortfalls(manifest(architectures=()), machine())
    assert reason == "wrong architecture: it runs on no architecture at all, this is aarch64"


def test_only_what_is_missing_takes_disk() -> None:
    model = manifest(5000 * MIB)
    assert shortfalls(model, machine(), missing_bytes=1000 * MIB) == []
    assert shortfalls(model, machine(), missing_bytes=1000 * MIB + 1) != []
    assert shortfalls(model, machine(free_disk_mb=0), missing_bytes=0) == []


def test_the_operator_knows_better() -> None:
    gpu = Gpu("Big", 24_000)
    found = machine(gpus=(gpu,), vram_mb=24_000)
    said = found.overridden(Overrides(ram_mb=1, execution_providers=("npu", "cpu")))
    assert (said.ram_mb, said.vram_mb, said.gpus) == (1, 24_000, (gpu,))
    assert said.execution_providers == ("npu", "cpu")
    assert said.found == {"ram_mb": "config.toml", "execution_providers": "config.toml"}
    assert found.overridden(Overrides()) == found
