"""What a model is: Peat's manifest types, their JSON, their rules and defaults.

Pure data: nothing here knows of files, clocks, randomness or networks.
Every value that exists has been checked, and its JSON reads back as the same value.
"""

from peatnet.models.command import ModelUpdateCommand
from peatnet.models.enums import ModelFormat, ModelStatus, ModelType, Quantization
from peatnet.models.guess import Guess, guess_from_filename
from peatnet.models.limits import (
    MAX_CHUNK_SIZE,
    MAX_CHUNKS,
    MAX_COMMAND_BYTES,
    MAX_MANIFEST_BYTES,
    MIN_CHUNK_SIZE,
)
from peatnet.models.manifest import ChunkHint, ModelManifest, manifest_schema
from peatnet.models.presets import ministral_3b, ministral_8b, yolov8n
from peatnet.models.reference import ModelReference, parse_reference
from peatnet.models.requirements import HardwareRequirements
from peatnet.models.state import LocalModelState
from peatnet.models.timestamp import Timestamp

__all__ = [
    "MAX_CHUNKS",
    "MAX_CHUNK_SIZE",
    "MAX_COMMAND_BYTES",
    "MAX_MANIFEST_BYTES",
    "MIN_CHUNK_SIZE",
    "ChunkHint",
    "Guess",
    "HardwareRequirements",
    "LocalModelState",
    "ModelFormat",
    "ModelManifest",
    "ModelReference",
    "ModelStatus",
    "ModelType",
    "ModelUpdateCommand",
    "Quantization",
    "Timestamp",
    "guess_from_filename",
    "manifest_schema",
    "ministral_3b",
    "ministral_8b",
    "parse_reference",
    "yolov8n",
]
