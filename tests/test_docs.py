"""The pages that people read: they name every setting and verb, their links lead somewhere, their examples are valid."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from peatnet.cli.app import app
from peatnet.config import Config, HardwareConfig
from peatnet.loader_settings import LoaderSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
CONFIGURATION = ROOT / "docs" / "configuration.md"


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_configuration_names_every_key() -> None:
    named = set(re.findall(r"^\| `([\w.]+)` \| \w", CONFIGURATION.read_text(), re.MULTILINE))
    nested = {f"hardware.{key}" for key in HardwareConfig.model_fields}
    nested |= {f"loaders.NAME.{key}" for key in LoaderSettings.model_fields}
    flat = set(Config.model_fields) - {"hardware", "loaders", "data_dir"}
    assert named >= flat | nested
    assert {key for key in named if not key.isupper()} == flat | nested


def test_configuration_gives_the_defaults() -> None:
    (text,) = blocks(CONFIGURATION, "toml")
    given = tomllib.loads(text)
    assert Config(data_dir=ROOT, **given) == Config(data_dir=ROOT)
    # No value of TOML's means "none", so these stand in comments.
    unset = {"quota_bytes", "bulk_port", "name"}
    assert {*given, "data_dir", *unset} == set(Config.model_fields)
    shown = tomllib.loads(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    assert all(shown[key] for key in unset)


def test_configuration_names_every_variable() -> None:
    sources = [*(ROOT / "peatnet").rglob("*.py"), *(ROOT / "scripts").iterdir()]
    read = {
        variable
        for path in sources
        for variable in re.findall(r"\b(?:PEATNET|XDG)_[A-Z_]+\b|\bNO_COLOR\b", path.read_text())
    }
    assert {"PEATNET_DATA_DIR", "NO_COLOR"} <= read
    assert {
        variable for variable in read if f"`{variable}`" not in CONFIGURATION.read_text()
    } == set()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, target


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``peatnet`` command at a prompt on any page, as page and words."""
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in re.findall(r"^\w*\$ (?:.*\s)?(peatnet .+)$", block, re.MULTILINE):
                yield name(page), shlex.split(line.partition(" > ")[0].partition(" | ")[0])


def verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """The click command that these words name, and the options among the others."""
    command, rest = typer.main.get_command(app), words[1:]
    while (children := getattr(command, "commands", None)) and rest and rest[0] in children:
        command, rest = children[rest[0]], rest[1:]
    return command, [word for word in rest if word.startswith("-")]


def test_commands_on_the_pages_exist() -> None:
    found = list(commands())
    assert len(found) > 8
    root = typer.main.get_command(app)
    for page, words in found:
        command, options = verb_of(words)
        assert command is not root or set(words[1:]) <= {"--help", "--version"}, (page, words)
        known = {
            spelled for each in command.params for spelled in (*each.opts, *each.secondary_opts)
        }
        assert set(options) <= known | {"--help", "-h"}, (page, words)


def test_the_python_of_the_readme_is_short_and_valid() -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    compile(code, "README.md", "exec")
    assert len([line for line in code.splitlines() if line]) <= 10
