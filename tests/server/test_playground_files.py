"""The playground's files: public, small, from us alone, under a strict policy. What the page does: tests/browser."""

import re
from pathlib import Path

import httpx2
import pytest
from serving import KEY, RunningServer, run_server

FOLDER = Path(__file__).resolve().parents[2] / "src" / "osamd" / "server" / "playground"
MOST_BYTES = 200_000
FILES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())


@pytest.mark.parametrize("name", ["", *(f"/{name}" for name in FILES), "/examples/cat.jpg"])
def test_files_are_public_and_under_a_strict_policy(server: RunningServer, name: str) -> None:
    """Each file is served without a key, with its type, and with a policy that lets nothing in from elsewhere."""
    with server.client(headers={}) as stranger:
        response = stranger.get(f"/playground{name}")
        head = stranger.head(f"/playground{name}")
        again = stranger.get(f"/playground{name}", headers={"If-None-Match": response.headers["ETag"]})

    assert [200, 200, 304] == [response.status_code, head.status_code, again.status_code]
    kinds = {"": "text/html", ".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
    kinds |= {".svg": "image/svg+xml", ".jpg": "image/jpeg"}
    assert response.headers["Content-Type"].partition(";")[0] == kinds[Path(name).suffix]
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"unsafe|https?:|\*|data:", policy)
    assert ["nosniff", "no-cache"] == [response.headers[name] for name in ("X-Content-Type-Options", "Cache-Control")]


def test_it_is_small() -> None:
    """The page without the example photos is under 200 kB."""
    assert 50_000 < sum((FOLDER / name).stat().st_size for name in FILES) < MOST_BYTES


@pytest.mark.parametrize("name", FILES)
def test_no_other_host_is_named(name: str) -> None:
    """No file has an address of another host, an absolute path, or markup with scripts or styles inside."""
    text = (FOLDER / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")

    assert not re.search(r"""(?:https?:|["'(=`])//""", text)
    assert not re.search(r"""(?:href|src|fetch\()=?["'`]/""", text)
    assert not re.search(r"""<script(?![^>]* src=)|<style|\sstyle=|\son\w+=["']|innerHTML|javascript:""", text)


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2fapp.py", "..%2f..%2fcatalog.toml", "examples", "%00", "examples/"]
)
def test_other_files_are_not_served(client: httpx2.Client, name: str) -> None:
    """Nothing outside the page's folder is served, nor a folder."""
    response = client.get(f"/playground/{name}")

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_slash_at_the_end_leads_back(client: httpx2.Client) -> None:
    """With a slash behind it the page's relative addresses would be wrong, so it leads to the page without one."""
    response = client.get("/playground/", follow_redirects=False)

    assert (308, "../playground") == (response.status_code, response.headers["Location"])
    assert client.get("/playground/", follow_redirects=True).url.path == "/playground"


def test_reading_is_all_anybody_may_do(server: RunningServer) -> None:
    """Without a key nothing can be sent to the page's paths."""
    with server.client(headers={}) as stranger:
        assert stranger.post("/playground").status_code == 403
        assert stranger.get("/playgrounds").status_code == 403


def test_it_goes_with_the_docs(tmp_path: Path) -> None:
    """``OSAMD_DOCS=off`` removes it."""
    with run_server(cache=tmp_path, env={"API_KEY": KEY, "OSAMD_DOCS": "off", "OSAMD_PRELOAD": "none"}) as running:
        for path in ("/playground", "/playground/app.js"):
            with running.client(headers={}) as stranger:
                assert stranger.get(path).status_code == 403
            with running.client() as client:
                assert client.get(path).status_code == 404
