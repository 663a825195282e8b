"""The swarm and the virtual fleet as machine code, for simulations that take minutes: what mypyc makes of the same files.

mypyc is a part of mypy (the `dev` extra); it needs a C compiler, which installing peatnet needs as well. Nothing but the
simulation uses what it makes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "peatnet"
SWARM = Path(PACKAGE) / "swarm"
VIRTUAL = ("virtual_agenda.py", "virtual_links.py", "virtual_fleet.py")
# With more, gcc takes longer, and what it makes is hardly faster: it mostly calls the interpreter's own functions.
OPTIONS = {"MYPYC_OPT_LEVEL": "1", "MYPYC_DEBUG_LEVEL": "0"}
PATIENCE = 600.0


class NotCompiled(Exception):
    """It could not be compiled; the text says why."""


def compiled() -> Path:
    """A folder to import the compiled modules from, with all of peatnet; made if it is not there from before.

    Raises:
        NotCompiled: mypyc or the compiler is missing, or failed.
    """
    folder = ROOT / "build" / "simulate" / _name()
    if folder.exists():
        return folder
    print("compiling the swarm (about a minute; kept for the next time)", file=sys.stderr)
    shutil.rmtree(folder.parent, ignore_errors=True)  # of older code
    folder.parent.mkdir(parents=True)
    with TemporaryDirectory(dir=folder.parent) as name:
        made = Path(name) / "made"
        shutil.copytree(
            ROOT / PACKAGE, made / PACKAGE, ignore=shutil.ignore_patterns("__pycache__")
        )
        for module in VIRTUAL:
            shutil.copy(ROOT / "bench" / module, made)
        _compile(made)
        shutil.rmtree(made / "build")
        made.rename(folder)
    return folder


def _compile(folder: Path) -> None:
    modules = sorted(str(path.relative_to(folder)) for path in (folder / SWARM).glob("*.py"))
    command = [sys.executable, "-m", "mypyc", "--ignore-missing-imports", "--follow-imports=silent"]
    try:
        ran = subprocess.run(
            [*command, *modules, *VIRTUAL],
            cwd=folder,
            env={**os.environ, **OPTIONS, "PYTHONPATH": str(folder), "MYPYPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as exc:
        raise NotCompiled(f"mypyc took longer than {PATIENCE:.0f} s") from exc
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip()
        raise NotCompiled(f"mypyc failed: {said[-2000:]}")


def _name() -> str:
    """Of the interpreter, and of all that is copied."""
    digest = hashlib.sha256(sys.version.encode())
    digest.update(repr(OPTIONS).encode())
    paths = [*(ROOT / PACKAGE).rglob("*.py"), *(ROOT / "bench" / each for each in VIRTUAL)]
    for path in sorted(paths):
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
