"""A data directory with a store, some models, and a loader whose verdict on each model is a line of shell."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import psutil

from peatnet.blobs import Database, Store
from peatnet.deploy.activator import Activator
from peatnet.deploy.commands import TOKEN_VARIABLE
from peatnet.deploy.loaders import CommandLoader, LoaderConfig
from peatnet.models import ModelFormat, ModelManifest, ModelType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from peatnet.deploy.activation import Candidate

PUBLISHER = "12D3KooWPublisher"

# What a loader does: it says what it is asked, follows the verdict, and notes what runs now.
SCRIPT = """
name="$MODEL_ID@$MODEL_VERSION"
echo "$name" >> asked
echo "loading $name, was $(basename "$PREVIOUS_PATH")"
test "$(cat "$MODEL_PATH" | tail -c ${#name})" = "$name" || exit 66
if [ -e "verdict $name" ]; then . "./verdict $name"; fi
echo "$name" > running
"""


# A verdict that never comes.
WAITING = "touch waiting; exec sleep 1000"


def loaders_running(root: Path) -> int:
    """How many loaders of models below this directory run; other tests may have theirs at the same time."""
    count = 0
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        model = environment.get("MODEL_PATH", "")
        count += TOKEN_VARIABLE in environment and model.startswith(str(root))
    return count


def gguf(name: str) -> bytes:
    """The smallest valid file, with a name at its end."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(8) + name.encode()


class Bench:
    """One node's disk, opened as a process would."""

    def __init__(
        self, root: Path, loaders: Mapping[str, LoaderConfig] | None = None, *, slow: float = 60.0
    ) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.database = Database.open(root / "peatnet.db")
        self.store = Store.open(root, self.database)
        if loaders is None:
            loaders = {"gguf": CommandLoader(("sh", "-c", SCRIPT), slow)}
        self.activator = Activator(root, self.database, loaders, self.store)

    def model(
        self, name: str, data: bytes | None = None, model_format: ModelFormat = ModelFormat.GGUF
    ) -> Candidate:
        """A model ``id@version`` in the store and under ``models/``."""
        model_id, _, version = name.partition("@")
        manifest = ModelManifest.new(
            model_id,
            model_id,
            ModelType.LLM,
            created_at="2025-12-02T10:11:12Z",
            version=version,
            format=model_format,
        )
        source = self.root / "source"
        source.write_bytes(gguf(name) if data is None else data)
        info = self.store.add_file(source)
        source.unlink()
        path = self.store.link_model(info.hash, model_id, manifest.filename())
        manifest = manifest.replace(blob_hash=info.hash.hex())
        return self.activator.candidate(PUBLISHER, manifest, path)

    def verdict(self, name: str, script: str) -> None:
        """What the loader shall do when it is asked for this model."""
        (self.root / f"verdict {name}").write_text(script + "\n")

    def link(self, slot: str) -> Path:
        return self.root / "models" / slot / "current"

    def linked(self, slot: str) -> str | None:
        """The model that a runtime would find, as its file says; None: no link. A link that leads nowhere is an error."""
        link = self.link(slot)
        if not link.is_symlink():
            return None
        return link.read_bytes()[len(gguf("")) :].decode()

    @property
    def asked(self) -> list[str]:
        """The models that the loader was asked for, in order."""
        path = self.root / "asked"
        return path.read_text().split() if path.exists() else []

    @property
    def running(self) -> str | None:
        """The model that the runtime was last told of with success."""
        path = self.root / "running"
        return path.read_text().strip() if path.exists() else None

    def pinned(self) -> set[str]:
        return {blob.hex() for blob, reasons in self.store.pins().items() if "service" in reasons}

    def again(self) -> Bench:
        """As the next process would open it."""
        self.close()
        return Bench(self.root)

    def close(self) -> None:
        self.store.close()
        self.database.close()
