"""The interactive API docs: served by us alone, described rightly, with examples that run."""

import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest
from fastapi.openapi.models import OpenAPI
from serving import KEY, RunningServer, run_server

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
ADDRESS = re.compile(r"""<(?:script|link|img)[^>]* (?:src|href)=["']([^"']+)["']""")


@pytest.fixture(scope="module")
def description(server: RunningServer) -> dict[str, Any]:
    """``/openapi.json``, as anybody may read it."""
    with server.client(headers={}) as client:
        response = client.get("/openapi.json")
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


def test_page_and_its_files_come_from_us(server: RunningServer) -> None:
    """The page is public, and each file it asks for is a relative address that we answer."""
    with server.client(headers={}) as client:
        page = client.get("/docs")
        addresses = [address for address in ADDRESS.findall(page.text) if not address.startswith("data:")]
        files = {address: client.get(urljoin("/docs", address)) for address in addresses}

    assert page.headers["Content-Type"].startswith("text/html")
    assert len(addresses) >= 3
    for address, response in files.items():
        assert not re.match(r"[a-z]*:|/", address), address
        assert response.status_code == 200, address
        assert len(response.content) > 50, address
        kind = "text/css" if address.endswith(".css") else "text/javascript"
        assert response.headers["Content-Type"].startswith(kind)


def test_page_contacts_no_other_host(server: RunningServer) -> None:
    """Neither the page nor our script nor the styles refer to another host; Swagger UI's online validator is off."""
    with server.client(headers={}) as client:
        page, script = client.get("/docs").text, client.get("/docs/start.js").text
        styles = client.get("/docs/swagger-ui.css").text

    assert "//" not in page.replace("data:,", "")
    assert not re.search(r"""["'(](?:https?:)?//""", script)
    assert "validatorUrl: null" in script
    assert '"openapi.json"' in script
    assert "@import" not in styles
    # The names of XML languages inside inline pictures are no addresses.
    assert not re.search(r"""url\(\s*["']?(?:https?:)?//""", styles)


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "..%2f..%2fcatalog.toml", "redoc.standalone.js", "%00"])
def test_other_files_are_not_served(client: httpx2.Client, name: str) -> None:
    """Only the page's own files are served from its folder."""
    response = client.get(f"/docs/{name}")

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_description_is_openapi_3_1(description: dict[str, Any]) -> None:
    """The document has the form of OpenAPI 3.1, and every reference in it leads somewhere."""
    OpenAPI.model_validate(description)

    assert description["openapi"].startswith("3.1.")
    for reference in references(description):
        target: Any = description
        assert reference.startswith("#/")
        for step in reference.removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        assert isinstance(target, dict)


def references(node: Any) -> Iterator[str]:
    """Every ``$ref`` below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of every operation."""
    for path, item in description["paths"].items():
        for method in METHODS & set(item):
            yield path, method, item[method]


def test_every_operation_is_described(description: dict[str, Any]) -> None:
    """Each route has a name of its own, a summary, its path parameters and its answers."""
    found = list(operations(description))
    names = [operation["operationId"] for _, _, operation in found]

    assert {"/", "/health", "/ready", "/api/generate", "/api/embed", "/api/images/{image_id}"} <= {
        path for path, _, _ in found
    }
    assert len(names) == len(set(names))
    for path, _, operation in found:
        assert operation["summary"]
        assert operation["responses"]
        declared = {item["name"] for item in operation.get("parameters", ()) if item["in"] == "path"}
        assert set(re.findall(r"{(\w+)}", path)) == declared


def test_errors_are_described(description: dict[str, Any]) -> None:
    """The statuses and codes of the error tree are documented where they can occur."""
    responses = description["paths"]["/api/generate"]["post"]["responses"]

    for status, code in [
        ("403", "access_denied"),
        ("404", "unknown_model"),
        ("410", "embedding_expired"),
        ("413", "image_too_large"),
        ("422", "invalid_prompt"),
        ("503", "model_unavailable"),
        ("504", "deadline_exceeded"),
    ]:
        assert f"`{code}`" in responses[status]["description"]
        assert "application/problem+json" in responses[status]["content"]


def test_probes_need_no_key(description: dict[str, Any]) -> None:
    """The document says which routes want the key."""
    for path, method, operation in operations(description):
        is_public = operation.get("security", description["security"]) == []
        assert is_public == (path in {"/health", "/ready"}), (method, path)


def test_every_example_runs(client: httpx2.Client, description: dict[str, Any]) -> None:
    """Each example of a request body, sent as it stands, is answered 200 with a mask where masks are asked for."""
    count = 0
    for path, method, operation in operations(description):
        content = operation.get("requestBody", {}).get("content", {})
        for kind, body in content.items():
            for name, example in body.get("examples", {}).items():
                response = client.request(method, path, json=example["value"], headers={"Content-Type": kind})
                assert response.status_code == 200, (path, name, response.text)
                assert "annotations" not in response.json() or response.json()["annotations"], name
                count += 1

    assert count >= 4


def test_prefix_of_a_proxy_is_told(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Behind a prefix, the document names it, the docs stay public and the rest stays guarded."""
    script = (
        "import uvicorn; from osamd.server.app import create_app; from osamd.settings import load_settings;"
        " s = load_settings(); uvicorn.run(create_app(s), port=s.port, root_path='/seg')"
    )
    env = {"API_KEY": KEY, "OSAMD_PRELOAD": "none"}
    with (
        run_server(
            cache=tmp_path_factory.mktemp("cache"), env=env, command=(sys.executable, "-c", script), wait_for="/health"
        ) as running,
        running.client(headers={}) as client,
    ):
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/seg"}]
        assert client.get("/docs/start.js").status_code == 200
        assert client.get("/").status_code == 403


def test_docs_can_be_switched_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    """``OSAMD_DOCS=off`` removes the page, its files and the document."""
    env = {"API_KEY": KEY, "OSAMD_DOCS": "off", "OSAMD_PRELOAD": "none"}
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env) as running:
        for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css", "/openapi.json"):
            with running.client(headers={}) as stranger:
                assert stranger.get(path).status_code == 403
            with running.client() as client:
                assert client.get(path).status_code == 404
