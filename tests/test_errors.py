"""What pydantic says of a value, in the words of whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from peatnet.api.verbs import VERBS
from peatnet.config import BadSetting, load_config
from peatnet.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quota = 1", "quota: there is no such key"),
        ('name = ""', "name: must not be empty"),
        (f'name = "{"x" * 65}"', "name: must have at most 64 characters"),
        ("name = 3", "name: must be text"),
        ("listen = []", "listen: must not be empty"),
        (f"listen = {['x'] * 17}", "listen: must have at most 16 entries"),
        ('listen = "x"', "listen: must be a list"),
        ('fetch = "x"', "fetch: must be 'all', 'fitting' or 'none'"),
        ("mdns = 3", "mdns: must be true or false"),
        ('mdns = "x"', "mdns: must be true or false"),
        ("quota_bytes = -1", "quota_bytes: must be at least 0"),
        ("quota_bytes = 1.5", "quota_bytes: must be a whole number"),
        ('bulk_port = "x"', "bulk_port: must be a whole number"),
        ("bulk_port = 70_000", "bulk_port: must be at most 65535"),
        ("give_up_after_s = 0", "give_up_after_s: must be more than 0"),
        ('give_up_after_s = "x"', "give_up_after_s: must be a number"),
        ("hardware = 3", "hardware: must be a table of keys and values"),
        ("loaders = 3", "loaders: must be a table of keys and values"),
        ("loaders.gguf = 3", "loaders.gguf: must be a table of keys and values"),
        ("loaders.gguf.command = []", "loaders.gguf.command: must not be empty"),
    ],
)
def test_a_setting(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(tmp_path)
    assert raised.value.message == f"{tmp_path / 'config.toml'}: {said}"


@pytest.mark.parametrize(
    ("verb", "params", "said"),
    [
        ("show", {"reference": "x" * 301}, "reference: must have at most 300 characters"),
        ("show", {"reference": "m\udcff"}, "reference: must be UTF-8"),
        ("show", {}, "reference: is missing"),
        ("publish_all", {"files": []}, "files: must not be empty"),
        ("get", {"reference": "m", "priority": 6}, "priority: must be at most 5"),
    ],
)
def test_a_parameter(verb: str, params: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        VERBS[verb].parse(params)
    assert raised.value.message == said


def test_what_the_caller_gives_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('name = "written"\n')
    with pytest.raises(BadSetting) as raised:
        load_config(tmp_path, name="")
    assert (raised.value.key, raised.value.reason) == ("name", "must not be empty")
    assert (raised.value.exit_code, raised.value.message) == (2, "name: must not be empty")
    with pytest.raises(BadSetting, match="nonsense: there is no such key"):
        load_config(tmp_path, nonsense=1)
