"""A loader for ``scripts/rollout``: maps the safetensors file in MODEL_PATH, checks its header, and reads each page.

Of the standard library only, so that it starts at once.
"""

import json
import mmap
import os
from pathlib import Path

with (
    Path(os.environ["MODEL_PATH"]).open("rb") as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
):
    begin = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:begin])
    tensors = [each for name, each in header.items() if name != "__metadata__"]
    end = begin + max(each["data_offsets"][1] for each in tensors)
    if end != len(mapped):
        raise SystemExit(f"the tensors end at {end}, the file at {len(mapped)}")
    pages = len(memoryview(mapped)[:: mmap.PAGESIZE].tobytes())
    print(f"{len(tensors)} tensors, {pages} pages")
