"""How large each part of a manifest may be; everything from outside is held against these first.

Peat itself sets no limits. These leave an order of magnitude above what real manifests hold, and keep
a signed record under the 60 KiB that gossip carries.
"""

from __future__ import annotations

from typing import Final

MAX_MANIFEST_BYTES: Final = 48 * 1024
"""The UTF-8 JSON text of one manifest."""

MAX_COMMAND_BYTES: Final = 56 * 1024
"""The UTF-8 JSON text of one update command: the largest manifest, and 8 KiB for the rest."""

MAX_STATE_BYTES: Final = 32 * 1024
"""The UTF-8 JSON text of one local model state."""

MAX_NAME_BYTES: Final = 128
"""model_id and version, each, in UTF-8."""

MAX_FILENAME_BYTES: Final = 240
"""filename(), in UTF-8: Linux allows 255, and a temporary suffix must still fit."""

MAX_LINE_BYTES: Final = 512
"""name, license and source, each, in UTF-8."""

MAX_TAG_BYTES: Final = 128
"""One feature, class, execution provider, architecture or target node, in UTF-8."""

MAX_TAGS: Final = 128
"""Entries of features, execution_providers and architectures, each."""

MAX_CLASSES: Final = 8192
"""Entries of classes: Open Images has 601, LVIS 1,203, ImageNet-21k would not fit the text limit."""

MAX_TARGETS: Final = 1024
"""Entries of target_nodes."""

MAX_URL_BYTES: Final = 2048
"""download_url."""

MAX_PATH_BYTES: Final = 4096
"""local_path: Linux's PATH_MAX."""

MAX_ERROR_BYTES: Final = 2048
"""error of a local model state; a longer one is cut when a model fails."""

MAX_METADATA_DEPTH: Final = 16
"""Lists and objects inside one another, the metadata object itself being the first."""

MAX_METADATA_VALUES: Final = 4096
"""Values of metadata, lists and objects counted like any other."""

MAX_METADATA_KEY_BYTES: Final = 256
"""One key anywhere in metadata, in UTF-8."""

MAX_NUMBER_CHARS: Final = 64
"""One JSON number as written; serde_json never needs more than 25."""

MAX_PARAMS_BILLIONS: Final = 1e6
"""A thousand times the largest model there is; above it an f32 could not be counted in MB."""

MIN_PARAMS_BILLIONS: Final = 1e-10
"""Less than one parameter; smaller values but 0 are mistakes."""

MIN_CHUNK_SIZE: Final = 64 * 1024
MAX_CHUNK_SIZE: Final = 4 * 1024 * 1024
MAX_CHUNKS: Final = 2**20
"""Chunks of one blob."""

U8_MAX: Final = 2**8 - 1
U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1
I64_MIN: Final = -(2**63)
