"""Images by URL: fetched from allowed hosts alone, whatever names, redirects and name servers do."""

import asyncio
import contextlib
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from asking import CLICK, GENERATE, click, refusal
from serving import KEY, RunningServer, run_server
from waiting import WAIT_S

from osamd.errors import BodyTooLargeError, OverloadedError, SettingsError, UrlFailedError, UrlRefusedError
from osamd.events import Event, WorkerHung
from osamd.server.guard import remote_images
from osamd.server.guard.remote_images import RemoteImages
from osamd.settings import load_settings

PICTURE = b"the bytes of a picture"
# Both are this machine; for these tests the first is a public host, and the second what must never be reached.
OUTSIDE, INSIDE = "127.0.0.2", "127.0.0.1"
USER_KEY = "user-key-8hTz-Ls63"


class Web(http.server.ThreadingHTTPServer):
    """A web server that redirects, dawdles and overflows on demand, and remembers who asked for what."""

    daemon_threads = True

    def __init__(self, address: str, port: int = 0) -> None:
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.redirects: dict[str, str] = {}
        self.picture = PICTURE
        self.released = threading.Event()
        super().__init__((address, port), _Handler)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that left."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))
        self.server.headers.append(dict(self.headers.items()))
        path = self.path.partition("?")[0]
        if path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    self.wfile.write(bytes(1000))
        elif path == "/slow":
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.server.released.wait(WAIT_S)
        elif path == "/missing":
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.picture)))
            if path == "/packed":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(self.server.picture)

    def log_message(self, *details: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(web: Web) -> Iterator[Web]:
    """Run a web server in a thread."""
    thread = threading.Thread(target=web.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield web
    finally:
        web.released.set()
        web.shutdown()
        thread.join()
        web.server_close()


@pytest.fixture
def hosts() -> Iterator[tuple[Web, Web]]:
    """A host on the internet and a service of the operator's own, on the same port."""
    outside, inside = _on_one_port()
    with serving(outside), serving(inside):
        yield outside, inside


@pytest.fixture
def outside(hosts: tuple[Web, Web]) -> Web:
    """A host on the internet."""
    return hosts[0]


@pytest.fixture
def inside(hosts: tuple[Web, Web]) -> Web:
    """A service of the operator's own, on the same port as the host outside."""
    return hosts[1]


def _on_one_port() -> tuple[Web, Web]:
    """A port that is free on one address may be taken on the other, by a connection of another test: try some."""
    for _ in range(20):
        outside = Web(OUTSIDE)
        try:
            return outside, Web(INSIDE, outside.port)
        except OSError:
            outside.server_close()
    pytest.fail("no port is free on both addresses")


class Names:
    """A name server that gives each of its answers once, and the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The next answer."""
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def images(web: Web, names: Names | None = None, **settings: Any) -> RemoteImages:
    """What fetches, with the host ``img.example`` allowed and its address taken for a public one."""
    defaults = {"url_hosts": (f"img.example:{web.port}",), "url_schemes": ("http",), "url_networks": (f"{OUTSIDE}/32",)}
    return RemoteImages(load_settings(**(defaults | settings)), resolve=names or Names([OUTSIDE]))


def fetch(remote: RemoteImages, web: Web, path: str = "/cat.jpg") -> bytes:
    """What is at a path of the host."""
    return asyncio.run(remote.fetch(f"http://img.example:{web.port}{path}"))


def test_an_image_is_fetched_from_the_address_that_was_checked(outside: Web) -> None:
    """The name is asked for once; the host sees its own name, and nothing of the caller."""
    names = Names([OUTSIDE])

    assert PICTURE == fetch(images(outside, names), outside, "/cat.jpg?size=1")
    assert [("img.example", outside.port)] == names.asked
    assert [(f"img.example:{outside.port}", "/cat.jpg?size=1")] == outside.asked
    assert {"host", "user-agent", "accept", "accept-encoding", "connection"} >= {
        name.lower() for name in outside.headers[0]
    }


def test_dns_rebinding_is_refused(outside: Web, inside: Web) -> None:
    """A name that resolves to a public address first and to loopback later never leads to loopback."""
    names = Names([OUTSIDE], [INSIDE])
    remote = images(outside, names)

    assert PICTURE == fetch(remote, outside)
    with pytest.raises(UrlRefusedError):
        fetch(remote, outside)
    assert 1 == len(outside.asked)
    assert [] == inside.asked


@pytest.mark.parametrize(
    "answer", [[OUTSIDE, INSIDE], [INSIDE, OUTSIDE], ["::ffff:127.0.0.1"], ["169.254.169.254"], []]
)
def test_one_private_address_refuses_the_name(outside: Web, inside: Web, answer: list[str]) -> None:
    """A name with a public and a private address, an obfuscated one, a metadata service or no address is refused."""
    with pytest.raises(UrlRefusedError) as caught:
        fetch(images(outside, Names(answer)), outside)

    assert "not on the server's allow-list" in str(caught.value)
    assert [] == outside.asked + inside.asked


def test_redirects_are_followed_and_each_is_checked(outside: Web, inside: Web) -> None:
    """To a path of the same host, yes; to an address, another host, another scheme or a name inside, no."""
    port = outside.port
    outside.redirects = {
        "/moved": "/cat.jpg",
        "/address": f"http://{INSIDE}:{port}/secret",
        "/metadata": "http://169.254.169.254/latest/meta-data/",
        "/other": f"http://other.example:{port}/",
        "/scheme": f"https://img.example:{port}/",
        "/file": "file:///etc/passwd",
        "/key": f"http://user:password@img.example:{port}/",
        "/round": "/round",
    }

    assert PICTURE == fetch(images(outside), outside, "/moved")
    for path in ("/address", "/metadata", "/other", "/scheme", "/file", "/key"):
        with pytest.raises(UrlRefusedError):
            fetch(images(outside), outside, path)
    with pytest.raises(UrlFailedError, match="more than 3 redirects"):
        fetch(images(outside), outside, "/round")
    assert [] == inside.asked


def test_a_redirect_to_a_name_that_changed_is_refused(outside: Web, inside: Web) -> None:
    """The same name, resolved anew for the redirect, now inside."""
    outside.redirects = {"/moved": "/cat.jpg"}

    with pytest.raises(UrlRefusedError):
        fetch(images(outside, Names([OUTSIDE], [INSIDE])), outside, "/moved")
    assert [] == inside.asked


@pytest.mark.parametrize(
    "url",
    [
        "https://img.example:PORT/",
        "http://img.example/",
        "http://img.example:1/",
        "http://other.example:PORT/",
        "http://img.example.evil.example:PORT/",
        "http://evil.example:PORT/?img.example",
        "http://evil.example:PORT#@img.example:PORT/",
        "http://img.example:PORT@127.0.0.1:PORT/",
        "http://user@img.example:PORT/",
        "http://127.0.0.1:PORT/",
        "http://127.1:PORT/",
        "http://2130706433:PORT/",
        "http://[::1]:PORT/",
        "http://[::1%25lo]:PORT/",
        "http:///cat.jpg",
        "//img.example:PORT/",
        "img.example",
        "file:///etc/passwd",
        "ftp://img.example:PORT/",
        "http://img.example:PORT\\@127.0.0.1/",
        "http://img\u3002example:99999999/",
        "http://\u0000/",
        "",
    ],
)
def test_only_allowed_urls_are_fetched(outside: Web, inside: Web, url: str) -> None:
    """Another scheme, port or host, a URL with credentials, an address, or an invalid URL: refused unfetched."""
    names = Names([OUTSIDE])
    with pytest.raises(UrlRefusedError):
        asyncio.run(images(outside, names).fetch(url.replace("PORT", str(outside.port))))

    assert [] == names.asked
    assert [] == outside.asked + inside.asked


@pytest.mark.parametrize(
    ("pattern", "host", "is_allowed"),
    [
        ("img.example", "img.example", True),
        ("img.example", "IMG.Example", True),
        ("img.example", "img.example.", True),
        ("img.example", "a.img.example", False),
        ("*.example", "img.example", True),
        ("*.img.example", "img.example", False),
        ("*.img.example", "a.b.img.example", True),
        ("*.img.example", "evilimg.example", False),
        ("*", "anything.example", True),
    ],
)
def test_patterns_of_hosts(outside: Web, pattern: str, host: str, *, is_allowed: bool) -> None:
    """A name is itself, ``*.`` whatever is below it, and ``*`` every host that is public."""
    remote = images(outside, url_hosts=(f"{pattern}:{outside.port}",))
    asked = remote.fetch(f"http://{host}:{outside.port}/")

    if is_allowed:
        assert PICTURE == asyncio.run(asked)
    else:
        with pytest.raises(UrlRefusedError):
            asyncio.run(asked)


def test_the_matched_spelling_of_a_name_is_resolved(outside: Web) -> None:
    """The spelling matched against the allow-list is the one resolved: another spelling may be another name."""
    names = Names([OUTSIDE])
    remote = images(outside, names, url_hosts=(f"xn--strae-oqa.example:{outside.port}",))

    assert PICTURE == asyncio.run(remote.fetch(f"http://stra\u00dfe.example:{outside.port}/"))
    assert [("xn--strae-oqa.example", outside.port)] == names.asked


def test_every_public_host_is_still_no_private_one(outside: Web, inside: Web) -> None:
    """With ``*`` the addresses are checked all the same; names of this machine, asked for in earnest, are refused."""
    remote = RemoteImages(load_settings(url_hosts=(f"*:{outside.port}",), url_schemes=("http",)))
    for host in ("localhost", "127.0.0.1", "[::1]"):
        with pytest.raises(UrlRefusedError):
            asyncio.run(remote.fetch(f"http://{host}:{outside.port}/"))

    assert [] == inside.asked


def test_large_images_are_cut_off(outside: Web) -> None:
    """By their length where it is told, else on the way."""
    outside.picture = bytes(5001)

    for path in ("/cat.jpg", "/endless"):
        with pytest.raises(BodyTooLargeError, match="5,000 bytes"):
            fetch(images(outside, url_bytes=5000), outside, path)
    assert 5001 == len(fetch(images(outside, url_bytes=5001), outside))


@pytest.mark.parametrize("path", ["/missing", "/packed"])
def test_what_is_no_image_is_told_without_details(outside: Web, path: str) -> None:
    """Neither an error page nor what would grow when it is unpacked is read."""
    with pytest.raises(UrlFailedError, match="the URL did not return an image"):
        fetch(images(outside), outside, path)


def test_a_host_that_does_not_listen_is_told_without_details(outside: Web) -> None:
    """Whether a port was closed, or a certificate bad, is not for callers."""
    with socket.socket() as unused:
        unused.bind((OUTSIDE, 0))
        port = unused.getsockname()[1]
        for scheme in ("http", "https"):
            remote = images(outside, url_hosts=(f"img.example:{port}",), url_schemes=(scheme,))
            with pytest.raises(UrlFailedError) as caught:
                asyncio.run(remote.fetch(f"{scheme}://img.example:{port}/"))
            assert "the image could not be fetched" == str(caught.value)


def test_a_host_without_our_trust_is_not_believed(outside: Web) -> None:
    """A server that speaks no TLS where ``https`` was asked for is asked for nothing."""
    remote = images(outside, url_schemes=("https",))
    with pytest.raises(UrlFailedError):
        asyncio.run(remote.fetch(f"https://img.example:{outside.port}/"))

    assert [] == outside.asked


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a host with a certificate for a name shows, and what somebody trusts who trusts that certificate."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S)
    showing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    showing.load_cert_chain(certificate, key)
    return showing, ssl.create_default_context(cafile=certificate)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("name", ["img.example", "other.example"])
def test_the_certificate_must_match_the_host_name(tmp_path: Path, name: str) -> None:
    """The connection is made to an address, but the certificate is checked against the host name in the URL."""
    showing, trusting = certified(tmp_path, name)
    web = Web(OUTSIDE)
    web.socket = showing.wrap_socket(web.socket, server_side=True)
    with serving(web):
        remote = images(web, url_schemes=("https",))
        remote._context = trusting
        asked = remote.fetch(f"https://img.example:{web.port}/cat.jpg")
        if name == "img.example":
            assert PICTURE == asyncio.run(asked)
        else:
            with pytest.raises(UrlFailedError):
                asyncio.run(asked)
            assert [] == web.asked


def test_the_next_address_is_tried(outside: Web) -> None:
    """A host with an address that does not answer is still reached by another."""
    remote = images(outside, Names(["127.0.0.3", OUTSIDE]), url_networks=("127.0.0.2/31",))

    assert PICTURE == fetch(remote, outside)


def test_slow_hosts_are_given_up_and_only_so_many_are_asked(outside: Web) -> None:
    """What takes too long ends; while it lasts, one more than allowed is refused with when to come back."""
    # Long enough for the last fetch on a busy machine.
    remote = images(outside, url_s=2, url_fetches=1)

    async def both() -> tuple[object, object]:
        url = f"http://img.example:{outside.port}/slow"
        return await asyncio.gather(remote.fetch(url), remote.fetch(url), return_exceptions=True)

    slow, refused = asyncio.run(both())
    outside.released.set()

    assert isinstance(slow, UrlFailedError)
    assert "within 2 s" in str(slow)
    assert isinstance(refused, OverloadedError)
    assert PICTURE == fetch(remote, outside)


def test_one_key_leaves_places_for_another(outside: Web) -> None:
    """It may have three of four; the next is refused, while another key's is fetched."""
    remote = images(outside, url_fetches=4)

    async def main() -> tuple[object, bytes]:
        slow = f"http://img.example:{outside.port}/slow"
        many = [asyncio.create_task(remote.fetch(slow, owner="much")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="limit of 4 concurrent fetches by URL reached"):
            await remote.fetch(slow, owner="much")
        other = await remote.fetch(f"http://img.example:{outside.port}/cat.jpg", owner="little")
        outside.released.set()
        return await asyncio.gather(*many, return_exceptions=True), other

    assert PICTURE == asyncio.run(main())[1]


def test_names_whose_lookups_hang(outside: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are given up and told of, and another key's names are looked up meanwhile."""
    go_on = threading.Event()
    events: list[Event] = []

    real = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host == "slow.example":
            assert go_on.wait(WAIT_S)
        if host.endswith(".example"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (OUTSIDE, outside.port))]
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    # Reading all certificates takes longer than a hung look-up here.
    monkeypatch.setattr(remote_images, "_ssl_context", lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    settings = load_settings(
        url_hosts=("*", f"*:{outside.port}"),
        url_schemes=("http",),
        url_networks=(f"{OUTSIDE}/32",),
        url_fetches=2,
        # Long enough for the look-up that does not hang.
        hang_s=1,
    )
    remote = RemoteImages(settings, emit=events.append)

    async def main() -> None:
        slow = asyncio.create_task(remote.fetch("http://slow.example/cat.jpg", owner="much"))
        assert PICTURE == await remote.fetch(f"http://img.example:{outside.port}/cat.jpg", owner="little")
        while not events:
            await asyncio.sleep(0.01)
        assert [WorkerHung("resolve", 1)] == events
        lane, _ = remote.status()
        assert (1, False) == (lane.hung, remote.is_stuck)
        go_on.set()
        await asyncio.gather(slow, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("value", ["http://example.com", "example.com/", "Example.com", "a b", "*.*.com", "user@a"])
def test_hosts_are_checked_at_start(value: str) -> None:
    """A host that could never match is a mistake."""
    with pytest.raises(SettingsError, match="OSAMD_URL_HOSTS"):
        load_settings(url_hosts=(value,))


# --- through a server -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, Web]]:
    """A server with a user's key that fetches, and the host it may ask."""
    folder = tmp_path_factory.mktemp("asking")
    (folder / "keys").write_text(f"someone user {USER_KEY}\n")
    with serving(Web(INSIDE)) as web:
        env = {
            "API_KEY_FILE": str(folder / "keys"),
            "OSAMD_PRELOAD": "none",
            "OSAMD_PULL": "auto",
            "OSAM_BLOB_ENDPOINT": "http://127.0.0.1:9",
            "OSAMD_URL_HOSTS": f"localhost:{web.port}",
            "OSAMD_URL_SCHEMES": "http",
            "OSAMD_URL_NETWORKS": "127.0.0.0/8,::1/128",
        }
        with run_server(cache=folder, env=env) as running:
            yield running, web


def test_a_server_fetches_for_its_callers(tmp_path: Path, photo: bytes) -> None:
    """In JSON, in multipart and beside no body; the image is the same as one that was sent."""
    with serving(Web(INSIDE)) as web:
        web.picture = photo
        url = f"http://localhost:{web.port}/private-name.jpg"
        env = {
            "API_KEY": KEY,
            "OSAMD_URL_HOSTS": f"localhost:{web.port}",
            "OSAMD_URL_SCHEMES": "http",
            "OSAMD_URL_NETWORKS": "127.0.0.0/8,::1/128",
        }
        with run_server(cache=tmp_path, env=env) as running, running.client() as client:
            by_json = client.post(GENERATE, json={"image_url": url, "prompt": click(CLICK)})
            sent = client.post(GENERATE, content=photo)
            by_form = client.post(GENERATE, files={"request": ("r", f'{{"image_url": "{url}"}}')})
            by_query = client.post(GENERATE, params={"image_url": url, "point": "225,150"})
            embedded = client.post("/api/embed", json={"image_url": url})
            twice = refusal(client.post(GENERATE, json={"image_url": url, "image_id": "img_0"}))
            other = refusal(client.post(GENERATE, json={"image_url": "http://localhost:1/"}))
        log = running.log_text()

    assert [200] * 4 == [answer.status_code for answer in (by_json, by_form, by_query, embedded)]
    assert {sent.json()["image_id"]} == {answer.json()["image_id"] for answer in (by_json, by_form, by_query, embedded)}
    assert (422, "image_url") == (twice["status"], twice["field"])
    assert (422, "url_refused", "image_url") == (other["status"], other["code"], other["field"])
    # It may have a signature in it.
    assert "private-name" not in log


@pytest.mark.parametrize(
    ("path", "fields", "code"),
    [
        (GENERATE, {"model": "nonsense"}, "unknown_model"),
        ("/api/embed", {"model": "nonsense"}, "unknown_model"),
        (GENERATE, {"prompt": {"points": [[1, 1]], "point_labels": []}}, "invalid_prompt"),
        (GENERATE, {"model": "efficientsam"}, "admin_only"),
    ],
)
def test_nothing_is_fetched_for_a_request_that_is_refused(
    asking: tuple[RunningServer, Web], path: str, fields: dict[str, Any], code: str
) -> None:
    """A model that is not there, or for others, and a prompt without sense are refused before anybody is asked."""
    running, web = asking
    with running.client(headers={"X-API-Key": USER_KEY}) as client:
        problem = refusal(client.post(path, json={"image_url": f"http://localhost:{web.port}/", **fields}))

    assert code == problem["code"]
    assert [] == web.asked


def test_nothing_is_fetched_by_default(server: Any, outside: Web) -> None:
    """A server whose operator said nothing asks nobody."""
    with server.client() as client:
        problem = refusal(client.post(GENERATE, json={"image_url": f"http://{OUTSIDE}:{outside.port}/"}))

    assert (422, "url_refused") == (problem["status"], problem["code"])
    assert [] == outside.asked
