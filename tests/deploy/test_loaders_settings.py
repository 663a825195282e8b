"""Which loader, with what in it: settings, placeholders, the tail of an output, and the examples in docs/loaders.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peatnet.config import load_config
from peatnet.deploy.loaders import (
    KEPT_BYTES,
    MAX_LINE_CHARS,
    MAX_LINES,
    CommandLoader,
    HttpLoader,
    LoadJob,
    Tail,
    check_body,
    choose_loader,
    fill_body,
    fill_url,
)
from peatnet.errors import ConfigError
from peatnet.models import ModelFormat, ModelType

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "loaders.md").read_text()
JOB = LoadJob("m/../x y?", "1.0", Path("/d/models/m/m.gguf"), Path("/d/m.json"))


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def loaders_of(directory: Path, text: str) -> dict[str, CommandLoader | HttpLoader]:
    (directory / "config.toml").write_text(text)
    return {name: each.loader() for name, each in load_config(directory).loaders.items()}


@pytest.mark.parametrize("text", examples("toml"))
def test_the_examples_can_be_used(tmp_path: Path, text: str) -> None:
    ((name, loader),) = loaders_of(tmp_path, text).items()
    assert loader.timeout_s > 0
    kinds = {*ModelType, *ModelFormat}
    assert name in kinds or name in {"ministral-3b", "yolov8n"}
    assert tomllib.loads(text)["loaders"][name]


def test_there_are_examples_for_each_runtime() -> None:
    assert len(examples("toml")) == 8
    for runtime in ("llama-server", "Ollama", "ONNX Runtime", "Triton"):
        assert re.search(rf"^## .*{runtime}", PAGE, re.MULTILINE)


@pytest.mark.parametrize("text", examples("sh"))
def test_the_scripts_are_shell(text: str) -> None:
    assert shutil.which("sh")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True, timeout=10)


@pytest.mark.parametrize("text", examples("python"))
def test_the_programs_are_python(text: str) -> None:
    compile(text, "loader", "exec")


def test_every_variable_is_documented() -> None:
    for name in JOB.environment():
        assert f"`{name}`" in PAGE
    for name in JOB.values():
        assert f"`{{{name}}}`" in PAGE


def test_what_is_configured(tmp_path: Path) -> None:
    text = """
    [loaders]
    gguf = {command = ["load", "{model_id}"], timeout_s = 5}
    llm = {url = "https://h:1/x", method = "PUT", body = {a = [1, true]}, headers = {K = "v"}}
    "my model" = {url = "http://h/"}
    """
    assert loaders_of(tmp_path, text) == {
        "gguf": CommandLoader(("load", "{model_id}"), 5),
        "llm": HttpLoader("https://h:1/x", "PUT", {"a": [1, True]}, {"K": "v"}, 300),
        "my model": HttpLoader("http://h/"),
    }


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("timeout_s = 1", "needs either command or url"),
        ("command = ['x']\nurl = 'http://h/'", "needs either command or url"),
        ("command = []", "must not be empty"),
        ("command = 'x y'", "must be a list"),
        ("command = ['']", "must begin with a program"),
        ("command = ['a\\u0000']", "NUL"),
        ("command = ['x']\nbody = {}", "body goes with url"),
        ("command = ['x']\nmethod = 'GET'", "method goes with url"),
        ("command = ['x']\nheaders = {}", "headers goes with url"),
        ("command = ['x']\ntimeout_s = 0", "must be more than 0"),
        ("command = ['x']\ntimeout_s = 100_000", "must be at most"),
        ("command = ['x']\nshell = true", "there is no such key"),
        ("url = 'file:///x'", "must begin with http"),
        ("url = 'http:///x'", "name a host"),
        ("url = 'http://h/a b'", "spaces"),
        ("url = 'http://u:p@h/'", "use headers"),
        ("url = 'http://{model_id}/'", "in place of the host"),
        ("url = 'http://h:x/'", "ort"),
        ("url = 'http://h/{model}'", "no placeholder {model}"),
        ("url = 'http://h/'\nmethod = 'DELETE'", "must be one of GET, PATCH, POST, PUT"),
        ("url = 'http://h/'\nbody = {a = {b = ['{path}']}}", "no placeholder {path}"),
        ("url = 'http://h/'\nbody = {a = nan}", "NaN"),
        ("url = 'http://h/'\nbody = {a = 2000-01-01}", "date"),
        ("url = 'http://h/'\nheaders = {a = 'b\\n'}", "printable"),
        ("url = 'http://h/'\nheaders = {a = '\\u00fc'}", "printable"),
    ],
)
def test_what_cannot_be(tmp_path: Path, line: str, complaint: str) -> None:
    quoted = line.replace("'", '"')
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        loaders_of(tmp_path, f"[loaders.gguf]\n{quoted}\n")


def test_a_body_is_not_endless() -> None:
    body: dict[str, Any] = {}
    for _ in range(20):
        body = {"a": [body]}
    with pytest.raises(ValueError, match="nested"):
        check_body(body)


def test_the_most_exact_name_wins() -> None:
    by = {name: CommandLoader((name,)) for name in ("m", "llm", "gguf")}
    assert choose_loader(by, "m", "llm", "gguf") == by["m"]
    assert choose_loader(by, "other", "llm", "gguf") == by["llm"]
    assert choose_loader(by, "other", "vlm", "gguf") == by["gguf"]
    assert choose_loader(by, "other", "vlm", "onnx") is None


def test_placeholders() -> None:
    url = fill_url("http://h/{model_id}/{{model_id}}/{x y}?p={model_path}", JOB)
    assert url == "http://h/m%2F..%2Fx%20y%3F/{model_id}/{x y}?p=%2Fd%2Fmodels%2Fm%2Fm.gguf"
    body = {"a": ["{model_id}", 1, None], "{model_id}": "<{previous_path}>{manifest_path}"}
    assert fill_body(body, JOB) == {"a": ["m/../x y?", 1, None], "{model_id}": "<>/d/m.json"}


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_no_name_leaves_its_place_in_a_url(name: str) -> None:
    job = LoadJob(name, "1", Path("/x"))
    parts = urlsplit(fill_url("http://h:1/a/{model_id}/load?x={model_id}#f", job))
    assert (parts.netloc, parts.fragment) == ("h:1", "f")
    _, a, place, load = parts.path.split("/")
    assert (a, unquote(place), load) == ("a", name, "load")
    assert json.loads(json.dumps(fill_body({"m": "{model_id}"}, job))) == {"m": name}


# The tail of an output


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_pieces_make_no_difference(pieces: list[bytes]) -> None:
    one, many = Tail(), Tail()
    one.feed(b"".join(pieces))
    for piece in pieces:
        many.feed(piece)
    assert one.lines() == many.lines()
    assert len(one.lines()) <= MAX_LINES
    assert all(line.isprintable() and 0 < len(line) <= MAX_LINE_CHARS for line in one.lines())


def test_a_tail_is_bounded() -> None:
    tail = Tail()
    for number in range(100_000):
        tail.feed(b"line %d\n" % number)
        assert len(tail._data) <= 3 * KEPT_BYTES
    assert tail.lines() == tuple(f"line {number}" for number in range(99_980, 100_000))


def test_a_tail_shows_what_a_person_would_have_seen() -> None:
    tail = Tail()
    tail.feed(b"\n\n10%\r50%\r100%\r\n  indented\t\n\x1b[31mred\n\xff\n\n")
    assert tail.lines() == ("100%", "  indented", "�[31mred", "�")
