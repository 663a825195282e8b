"""Readers of model files' headers: GGUF, safetensors, ONNX. Strict, bounded, without dependencies.

They tell a publisher what goes into the manifest, and keep files that claim more than they hold from any runtime.
"""

from peatnet.deploy.headers.inspection import (
    NAME_REASON,
    Certainty,
    Finding,
    Inspection,
    inspect_name,
)
from peatnet.deploy.headers.reading import check_header, inspect_file

__all__ = [
    "NAME_REASON",
    "Certainty",
    "Finding",
    "Inspection",
    "check_header",
    "inspect_file",
    "inspect_name",
]
