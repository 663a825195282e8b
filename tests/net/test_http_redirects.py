"""Redirects and TLS, on real servers."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from http_support import (
    fetch,
    refused,
    store_in,
    with_ranges,
)
from scripted_http import Answer, Ask, ScriptedServer

from peatnet.errors import HttpSourceError
from peatnet.net.http_client import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peatnet.blobs import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from store_in(tmp_path)


# Redirects.


def redirect(to: str, status: int = 302) -> Answer:
    return Answer(status, b"this way", {"Location": to})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_and_remembered(store: Store, status: int) -> None:
    def script(ask: Ask) -> Answer:
        if ask.path == "/model.gguf":
            return redirect("/a/b?signature=x#fragment", status)
        if ask.path.startswith("/a/"):
            return redirect("../there", status)
        return with_ranges(ask)

    with ScriptedServer(script) as server:
        await fetch(store, server.url)
    assert [ask.path for ask in server.asks[:3]] == ["/model.gguf", "/a/b?signature=x", "/there"]
    assert {ask.path for ask in server.asks[3:]} == {"/there"}


async def test_an_expired_place_is_looked_up_again(store: Store) -> None:
    def script(ask: Ask) -> Answer:
        if ask.path == "/model.gguf":
            return redirect(f"/signed/{ask.number // 6}")
        if ask.path == "/signed/0" and ask.number > 5:
            return Answer(403, b"expired")
        return with_ranges(ask)

    with ScriptedServer(script) as server:
        await fetch(store, server.url, connections=1)
    assert {ask.path for ask in server.asks} == {"/model.gguf", "/signed/0", "/signed/1"}


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("/model.gguf", "more than 5 redirects"),
        ("ftp://127.0.0.1/model.gguf", "/model.gguf': only http and https"),
        ("file:///etc/passwd", "/etc/passwd': only http and https"),
        ("http://127.0.0.1:99999/", "'http://127.0.0.1:99999/': it names no port"),
        ("http://u:secret@127.0.0.1:99999/x?secret#secret", "99999/x': it names no port"),
        ("http://x:y:z/", "'http://x:y:z/', which is no URL"),
        ("http://u:secret@[::1?secret#secret", "'http://[::1', which is no URL"),
        ("http://[::1/" + "x" * 500, "xxx...', which is no URL"),
        ("http://127.0.0.1/\x1b[31m", "\\x1b[31m', which is no URL"),
        ("http://a..b/m", "label"),
        ("http://xn--a/m", "'http://xn--a/m', which is no URL"),
        ("/" + "x" * 5000, "longer than"),
        ("", "without a Location"),
    ],
)
async def test_redirects_that_lead_nowhere(store: Store, target: str, complaint: str) -> None:
    with ScriptedServer(lambda _: redirect(target)) as server:
        error = await refused(store, server.url)
    assert isinstance(error, HttpSourceError)
    assert complaint in error.message
    assert server.url in error.message  # it is the one that redirects
    assert "secret" not in error.message
    assert "manifest" not in (error.hint or "")
    if not target.startswith("/"):
        assert {ask.path for ask in server.asks} == {"/model.gguf"}
        assert len(server.asks) <= 4  # one for each connection: it is not tried again


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts for a server on 127.0.0.1 and for a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path_factory.mktemp("tls") / "both.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


async def test_https_and_never_down_to_http(
    store: Store, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    settings = HttpSettings(attempts=1, trust_env=False, ssl_context=tls[1])
    with ScriptedServer(with_ranges) as plain:
        with ScriptedServer(lambda _: redirect(plain.url), tls=tls[0]) as secure:
            error = await refused(store, secure.url, settings=settings)
        assert "from https down to" in error.message
        assert plain.asks == []
    with ScriptedServer(with_ranges, tls=tls[0]) as secure:
        error = await refused(store, secure.url, settings=HttpSettings(attempts=1, trust_env=False))
        assert "certificate" in error.message.lower()
        # Up to https is fine.
        with ScriptedServer(lambda _: redirect(secure.url)) as plain:
            await fetch(store, plain.url, settings=settings)
