"""The rules for what a server may answer, one by one."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peatnet.errors import HttpSourceError
from peatnet.net import http_checks as checks
from peatnet.net.http_client import HttpSettings

HERE = httpx.URL("https://example.org/a/b?token=1")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://other.org/x#y", "https://other.org/x"),
        ("//other.org/x", "https://other.org/x"),
        ("/x", "https://example.org/x"),
        ("c", "https://example.org/a/c"),
    ],
)
def test_redirects(location: str, target: str) -> None:
    assert str(checks.redirect_target(HERE, location)) == target


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "http://example.org/",
        "ftp://x/",
        "http://x:y:z/",
        "https://x:0/",
        "https://xn--a/",
    ],
)
def test_redirects_refused(location: str | None) -> None:
    with pytest.raises(HttpSourceError):
        checks.redirect_target(HERE, location)


def test_what_is_shown_of_a_url() -> None:
    assert checks.display(httpx.URL("http://me:pw@h:1/p?q=1#f")) == "http://h:1/p"
    assert len(checks.display(httpx.URL("http://h/" + "x" * 4000))) < 250


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"etag": '"a"'}, '"a"'),
        ({"etag": 'W/"a"', "last-modified": "then"}, "then"),
        ({"etag": '""'}, None),
        ({"etag": '"' + "x" * 600 + '"'}, None),
        ({"last-modified": "x" * 600}, None),
        ({"etag": '"caf\u00e9"', "last-modified": "then"}, "then"),
        ({"etag": '"a\tb"', "last-modified": "th\u00e8n"}, None),
        ({}, None),
    ],
)
def test_validators(headers: dict[str, str], expected: str | None) -> None:
    assert checks.validator(headers) == expected


PIECES = [
    "http:",
    "https:",
    "//",
    "/",
    ".",
    "a",
    "xn--",
    "xn--a",
    "[",
    "]",
    ":",
    "@",
    "%",
    "%ff",
    "80",
    "é",
    "_",
    "1.2.3.4",
    "?",
    "#",
    "\\",
]
URL_PARTS = st.lists(
    st.sampled_from([*PIECES, " ", "\x00", "\u0663", "\u3002", "\uff0f", "\ud800"]), max_size=8
)


@settings(deadline=None)
@given(URL_PARTS)
def test_any_url_passes_or_is_refused(parts: list[str]) -> None:
    for text in ("".join(parts), "http://" + "".join(parts)):
        for found in (checks.parse_url, lambda text: checks.redirect_target(HERE, text)):
            with contextlib.suppress(HttpSourceError):
                assert checks.display(found(text))


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7.0), ("", 0.0), ("-1", 0.0), ("tomorrow", 0.0), ("9" * 40, 0.0)]
)
def test_retry_after(text: str, seconds: float) -> None:
    assert checks.retry_after({"retry-after": text}) == seconds


def test_waits_grow_and_are_bounded() -> None:
    limits = HttpSettings(backoff=0.5, backoff_max=30)
    assert [limits.wait(k, 0) for k in (1, 2, 3, 100)] == [0.5, 1.0, 2.0, 30]
    assert limits.wait(1, 10) == 10
    assert limits.wait(1, 10_000) == 30


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["content-range", "content-length", "content-type", "content-encoding"]),
        st.one_of(
            st.text(max_size=60),
            st.from_regex(r"bytes \d{1,22}-\d{1,22}/(\d{1,22}|\*)", fullmatch=True),
            st.from_regex(r"\d{1,30}", fullmatch=True),
        ),
    )
)
def test_any_headers_pass_or_are_refused(headers: dict[str, str]) -> None:
    with contextlib.suppress(HttpSourceError):
        checks.check_body_kind("x", headers)
    with contextlib.suppress(HttpSourceError):
        checks.check_range("x", headers, start=10, end=20, size=100)
        assert headers["content-range"].strip() in {"bytes 10-19/100", "bytes 10-19/*"}
        assert int(headers.get("content-length", 10)) == 10
    assert "100" in checks.too_short("x", headers, 100).message
