"""A log line is one line, whatever is in it."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peatnet.log import get_logger


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "peatnet.test")


def test_an_event_and_its_facts_make_one_line(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("peatnet.test").info("verified", bytes=17, target="m@1.0", reason="two words")
    assert caplog.messages == ["verified bytes=17 target=m@1.0 reason='two words'"]


def test_what_is_below_the_level_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("peatnet.test").debug("detail")
    assert caplog.messages == []


def test_a_traceback_goes_the_way_of_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    try:
        int("inside")
    except ValueError:
        get_logger("peatnet.test").exception("failed", peer="12D3")
    (record,) = caplog.records
    assert record.getMessage() == "failed peer=12D3"
    assert "ValueError: invalid literal" in caplog.text


@given(st.text())
def test_text_from_outside_can_neither_forge_a_line_nor_steer_a_terminal(text: str) -> None:
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("peatnet.test.hostile")
    logger.setLevel(logging.INFO)
    handler = Collect()
    logger.addHandler(handler)
    try:
        get_logger("peatnet.test.hostile").info("heard", name=text)
    finally:
        logger.removeHandler(handler)
    (line,) = lines
    assert line.isprintable()
