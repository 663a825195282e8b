"""What a machine must have to run a model."""

from __future__ import annotations

from typing import ClassVar, Self

from peatnet.models import fields  # noqa: TC001  # pydantic reads annotations at run time
from peatnet.models.base import Strict


class HardwareRequirements(Strict):
    """What a machine must have to run a model; by default what a small model on a CPU needs.

    Raises:
        InvalidManifest: a field (named) breaks a rule.
    """

    label: ClassVar[str] = "manifest"
    prefix: ClassVar[str] = "requirements."

    min_vram_mb: fields.U32 = 0
    """Video memory without which it will not run, in MB; 0 for none."""
    recommended_vram_mb: fields.U32 = 0
    """Video memory with which it runs well, in MB."""
    min_ram_mb: fields.U32 = 2048
    """Main memory without which it will not run, in MB."""
    execution_providers: fields.Tags = ("cpu",)
    """What can run it, best first: cpu, cuda, tensorrt, ..."""
    architectures: fields.Tags = ("aarch64", "x86_64")
    """Processor architectures it runs on, as `uname -m` names them."""

    @classmethod
    def small_llm(cls) -> Self:
        """Those of a language model of about 3 billion parameters in 4 bits."""
        return cls._accelerated(2048, 4096, 4096, "cuda")

    @classmethod
    def medium_llm(cls) -> Self:
        """Those of a language model of about 8 billion parameters in 4 bits."""
        return cls._accelerated(4096, 8192, 8192, "cuda")

    @classmethod
    def yolo_nano(cls) -> Self:
        """Those of the smallest YOLO detector."""
        return cls._accelerated(512, 1024, 1024, "tensorrt", "cuda")

    @classmethod
    def _accelerated(cls, min_vram: int, good_vram: int, min_ram: int, *providers: str) -> Self:
        return cls(
            min_vram_mb=min_vram,
            recommended_vram_mb=good_vram,
            min_ram_mb=min_ram,
            execution_providers=(*providers, "cpu"),
        )

    def can_run_on(self, vram_mb: int, ram_mb: int, arch: str) -> bool:
        """Whether a machine with this much memory (MB) and this architecture will do."""
        return (
            vram_mb >= self.min_vram_mb and ram_mb >= self.min_ram_mb and arch in self.architectures
        )

    def supports_provider(self, provider: str) -> bool:
        """Whether this execution provider can run it."""
        return provider in self.execution_providers
