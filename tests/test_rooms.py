"""The rooms of docs/architecture.md: who may import whom, what stays pure, what starts fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "peatnet"
MAX_LINES = 500

# A room may import from itself and from the rooms above it. The modules of the package's top are one room,
# "node" (config, node and their helpers: where everything is wired together), but for errors, __main__, and
# identity, which reads the node's key from disk for net and, without any libp2p, for commands.
ROOMS: list[set[str]] = [
    {"errors", "log", "concurrency"},
    {"models"},
    {"blobs"},
    {"records"},
    {"swarm"},
    {"transfer"},
    {"identity"},
    {"net"},
    {"deploy"},
    {"node"},
    {"api"},
    {"cli"},
    {"__main__"},
]
ROOMS_OF_ONE = {"__init__", "__main__", "concurrency", "errors", "identity", "log"}
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}

# State machines and plain data: no files, no sockets, no clock, no threads, no randomness of their own.
PURE = {"models", "records", "swarm"}
OUTSIDE = {
    "asyncio", "httpx", "multiprocessing", "os", "pathlib.Path", "secrets", "select", "shutil", "signal",
    "peatnet.concurrency", "peatnet.log", "socket", "sqlite3", "ssl", "structlog", "subprocess", "tempfile", "threading", "time", "trio",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path, package: Path = PACKAGE) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return "node" if len(parts) == 1 and parts[0] not in ROOMS_OF_ONE else parts[0]


def imports_of(source: str, module: str) -> set[str]:
    """Every module name that the source imports, anywhere in it, with relative imports resolved.

    ``from os import path`` counts as ``os.path``, ``from peatnet.room.module import name`` as the module.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")[: -node.level]
                base = ".".join([*parts, base] if base else parts)
            if base.startswith("peatnet."):
                found.add(base)
            else:
                found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def module_name(path: Path, package: Path = PACKAGE) -> str:
    return ".".join(["peatnet", *path.relative_to(package).with_suffix("").parts])


def breaches(path: Path, package: Path = PACKAGE) -> list[str]:
    """What one module imports that its room may not."""
    room = room_of(path, package)
    found: list[str] = []
    for name in sorted(imports_of(path.read_text(), module_name(path, package))):
        top, _, rest = name.partition(".")
        if top == "libp2p" and room != "net":
            found.append(f"{path.name} ({room}) imports {name}: only net may know libp2p")
        if room in PURE and not OUTSIDE.isdisjoint({top, name}):
            found.append(f"{path.name} ({room}) imports {name}: {room} is pure")
        if top != "peatnet" or room == "__init__":
            continue  # the package's own __init__ re-exports, and so knows all rooms
        target = rest.partition(".")[0]
        if target in {"", "__version__"}:
            continue
        if (package / f"{target}.py").exists() and target not in ROOMS_OF_ONE:
            target = "node"
        if target not in RANK:
            found.append(f"{path.name} ({room}) imports {name}: not a room")
        elif RANK[target] > RANK[room]:
            found.append(f"{path.name} ({room}) imports {name}: {target} is below {room}")
    return found


def test_every_module_belongs_to_a_room() -> None:
    assert {room_of(path) for path in modules()} - {"__init__"} <= set(RANK)


def test_rooms_import_only_from_rooms_above_them() -> None:
    assert [breach for path in modules() for breach in breaches(path)] == []


@pytest.mark.parametrize(
    ("place", "source", "complaint"),
    [
        ("swarm/x.py", "from peatnet.transfer import Download", "transfer is below swarm"),
        ("swarm/x.py", "from ..transfer import Download", "transfer is below swarm"),
        ("swarm/x.py", "from .. import node", "node is below swarm"),
        ("blobs/x.py", "from peatnet import net", "net is below blobs"),
        ("transfer/x.py", "from peatnet.config import Config", "node is below transfer"),
        ("records/x.py", "def f():\n    import time", "records is pure"),
        ("transfer/x.py", "import libp2p.peer.id", "only net may know libp2p"),
        ("cli/x.py", "def f():\n    from libp2p import new_host", "only net may know libp2p"),
        ("cli/x.py", "import peatnet.elsewhere", "not a room"),
    ],
)
def test_the_check_finds_a_breach(tmp_path: Path, place: str, source: str, complaint: str) -> None:
    path = tmp_path / place
    path.parent.mkdir()
    path.write_text(source)
    (tmp_path / "config.py").touch()
    found = breaches(path, tmp_path)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("place", "source"),
    [
        (
            "swarm/x.py",
            "import random\nfrom peatnet.errors import LocalProtocolError\nfrom .y import z",
        ),
        ("net/x.py", "import libp2p\nfrom peatnet.transfer import Source"),
        ("cli/x.py", "from peatnet import __version__\nfrom peatnet.api import ControlClient"),
        ("__init__.py", "from peatnet.node import Node"),
    ],
)
def test_the_check_lets_good_imports_pass(tmp_path: Path, place: str, source: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    assert breaches(path, tmp_path) == []


def test_modules_stay_short() -> None:
    paths = [
        path for place in ("peatnet", "tests", "bench") for path in (ROOT / place).rglob("*.py")
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert len(lengths) > len(ROOMS)
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def loaded_by(code: str) -> set[str]:
    """The top-level names of all modules that a fresh interpreter has loaded after running the code."""
    report = "import sys; print('\\n'.join(sorted({m.partition('.')[0] for m in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_peatnet_is_cheap() -> None:
    loaded = loaded_by("import peatnet")
    assert "peatnet" in loaded
    assert loaded & {"libp2p", "trio", "pydantic", "httpx", "structlog"} == set()


def test_help_does_not_load_libp2p() -> None:
    loaded = loaded_by(
        "import sys\n"
        "from peatnet.cli import main\n"
        "sys.argv = ['peatnet', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as exc:\n"
        "    assert not exc.code\n"
    )
    assert "peatnet" in loaded
    assert loaded & {"libp2p", "trio", "pydantic", "httpx", "starlette", "hypercorn"} == set()
