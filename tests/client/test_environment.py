"""The shell's proxies and certificates: ignored on loopback, named in one line where they are wrong elsewhere."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from puppet import GOOD, Puppet, Told, puppet
from serving import free_port

from osamd.cli.main import main
from osamd.client import AsyncClient, Client
from osamd.errors import SettingsError, UnreachableError
from osamd.proxies import is_loopback, tls_context

PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
BROKEN = [
    {"ALL_PROXY": "socks5://127.0.0.1:9"},
    {"all_proxy": "socks4://127.0.0.1:9"},
    {"HTTP_PROXY": "http://proxy:port"},
    {"http_proxy": "::::"},
    {"HTTP_PROXY": "http://127.0.0.1:9"},
    {"SSL_CERT_FILE": "/nonexistent"},
    {"SSL_CERT_DIR": "/nonexistent"},
    {"SSL_CERT_FILE": __file__},
]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of the machine that runs the tests."""
    for name in PROXY_NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def good() -> Iterator[Puppet]:
    """A server on loopback."""
    with puppet(Told(200, GOOD)) as server:
        yield server


@pytest.mark.parametrize("variables", BROKEN, ids=str)
def test_loopback_needs_none_of_them(monkeypatch: pytest.MonkeyPatch, good: Puppet, variables: dict[str, str]) -> None:
    """Whatever is wrong with them, both clients and the commands reach this machine."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    async def segment() -> int:
        async with AsyncClient(good.url, patience_s=0) as client:
            return (await client.segment(b"x")).width

    with Client(good.url, patience_s=0) as client:
        assert 4 == client.segment(b"x").width
    with Client(good.url.replace("127.0.0.1", "localhost"), patience_s=0) as client:
        assert 4 == client.segment(b"x").width
    assert 4 == asyncio.run(segment())
    assert 0 == main(["ps", "--url", good.url])


@pytest.mark.parametrize(
    ("variables", "url", "part"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "http://h", "ALL_PROXY: SOCKS proxies need the package socksio"),
        ({"all_proxy": "socks5h://127.0.0.1:9"}, "https://h", "all_proxy: SOCKS proxies need the package socksio"),
        ({"HTTP_PROXY": "http://proxy:port"}, "http://h", "HTTP_PROXY: expected a proxy such as http://host:port"),
        ({"https_proxy": "ftp://proxy"}, "https://h", "https_proxy: expected a proxy"),
        ({"HTTPS_PROXY": "http://pro xy"}, "https://h", "HTTPS_PROXY: expected a proxy"),
        ({"HTTP_PROXY": "http://:secret@"}, "http://h", "HTTP_PROXY: expected a proxy"),
        (
            {"SSL_CERT_FILE": "/nonexistent"},
            "https://h",
            "SSL_CERT_FILE: cannot read the trusted certificates: No such",
        ),
        ({"SSL_CERT_FILE": __file__}, "https://h", "SSL_CERT_FILE: cannot read the trusted certificates"),
        (
            {"SSL_CERT_FILE": "/nonexistent", "HTTP_PROXY": "https://proxy"},
            "http://h",
            "SSL_CERT_FILE: cannot read the trusted certificates",
        ),
    ],
    ids=str,
)
def test_invalid_variable_is_named_outside_loopback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    url: str,
    part: str,
) -> None:
    """In one line without the value, which may hold a password; by both clients and by the commands."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for kind in (Client, AsyncClient):
        with pytest.raises(SettingsError) as caught:
            kind(url)
        assert str(caught.value).startswith(part)
    for command in (["ps", "--url", url], ["bench", url]):
        assert 6 == main(command)
        told = capsys.readouterr()
        assert ("", 1) == (told.out, told.err.count("\n"))
        assert told.err.startswith(f"osamd: {part}")
        assert "secret" not in told.err


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_dead_proxy_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The server may be up: the message says what stands before it, and where that comes from."""
    port = free_port()
    monkeypatch.setenv(variable, f"http://user:secret@127.0.0.1:{port}")
    with Client("http://masks.example.com", patience_s=0) as client, pytest.raises(UnreachableError) as caught:
        client.segment(b"x")
    expected = f"cannot reach http://masks.example.com through the proxy http://127.0.0.1:{port} from {variable}: "
    assert str(caught.value).startswith(expected)
    assert "secret" not in str(caught.value)


def test_proxy_is_used(monkeypatch: pytest.MonkeyPatch, good: Puppet) -> None:
    """For hosts that NO_PROXY does not name, with or without a scheme in the variable."""
    monkeypatch.setenv("HTTP_PROXY", good.url.removeprefix("http://"))
    with Client("http://masks.example.com", patience_s=0) as client:
        assert 4 == client.segment(b"x").width
    assert ["http://masks.example.com/api/generate"] == good.paths
    monkeypatch.setenv("NO_PROXY", "other.example, .example.com")
    # Looking the name up is what no test may do.
    with Client("http://masks.example.com", patience_s=0) as client, pytest.raises(RuntimeError, match="look up"):
        client.segment(b"x")


def test_certificates_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where TLS is spoken, SSL_CERT_FILE is what is trusted; without TLS nothing is."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    context = tls_context("http", "")
    assert (ssl.CERT_REQUIRED, True, []) == (context.verify_mode, context.check_hostname, context.get_ca_certs())
    with pytest.raises(SettingsError):
        tls_context("http", "https")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("LOCALHOST", True), ("localhost.", True), ("osamd.localhost", True), ("127.0.0.1", True),
        ("127.9.9.9", True), ("::1", True), ("notlocalhost", False), ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("128.0.0.1", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_by_name_and_address(host: str, expected: bool) -> None:  # noqa: FBT001 - a row of the table
    """Without looking anything up."""
    assert expected == is_loopback(host)
