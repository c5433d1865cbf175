import contextlib
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from asking import CLICK, GENERATE, ask, click, refusal
from blob_server import Answer
from pictures import base64_of
from serving import KEY, run_server
from shelf import LOCAL, Library, WebModel, run_library
from waiting import WAIT_S

from osamd import __version__

ROUTES = [
    ("GET", "/api/version"),
    ("GET", "/api/tags"),
    ("GET", "/api/ps"),
    ("GET", "/api/catalog"),
    ("POST", "/api/show"),
    ("POST", "/api/pull"),
    ("DELETE", "/api/delete"),
]
BUILTIN = "builtin:latest"


@pytest.fixture
def client(library: Library) -> Iterator[httpx2.Client]:
    """An HTTP client of the library's server that sends the key."""
    with library.server.client() as opened:
        yield opened


def models(client: httpx2.Client, path: str) -> dict[str, dict[str, Any]]:
    """The models that a listing has, by name."""
    response = client.get(path)
    assert response.status_code == 200, response.text
    return {item["name"]: item for item in response.json()["models"]}


def pull(client: httpx2.Client, model: WebModel | str) -> list[dict[str, Any]]:
    """All lines of a pull."""
    name = model if isinstance(model, str) else model.name
    with client.stream("POST", "/api/pull", json={"model": name}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in response.iter_lines()]


def delete(client: httpx2.Client, model: str) -> httpx2.Response:
    """The answer to a deletion."""
    return client.request("DELETE", "/api/delete", json={"model": model})


def until(claim: Any) -> None:
    """Return when the claim holds."""
    end = time.monotonic() + WAIT_S
    while not claim():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


@contextlib.contextmanager
def held_back(model: WebModel, role: str = "encoder", send: int = 500) -> Iterator[threading.Event]:
    """Have the web server stop in the middle of a file until the block, or the test, lets it go on."""
    go_on = threading.Event()
    model.answer(role, Answer(send=send, hold=go_on))
    try:
        yield go_on
    finally:
        go_on.set()


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_key_is_wanted(library: Library, method: str, path: str) -> None:
    """Nothing about models is told to those without the key, and nothing is done for them."""
    with library.server.client(headers={}) as client:
        response = client.request(method, path, json={"model": BUILTIN})
    assert refusal(response)["code"] == "access_denied"
    assert response.status_code == 403


def test_version(client: httpx2.Client) -> None:
    """The version is the package's."""
    assert client.get("/api/version").json() == {"version": __version__}


def test_tags_are_what_is_here(library: Library, client: httpx2.Client, fresh: WebModel) -> None:
    """The models whose files are here, with size, digest and abilities; none that has to be pulled first."""
    here = models(client, "/api/tags")
    assert {BUILTIN, *LOCAL} <= set(here)
    assert not {fresh.name, "efficientsam:latest"} & set(here)
    sam = here["sam:300m"]
    assert sum(path.stat().st_size for path in library.paths["sam:300m"].values()) == sam["size"]
    assert sam["name"] == sam["model"]
    assert len(sam["digest"]) == 64
    assert {"format": "onnx", "family": "sam"} == {key: sam["details"][key] for key in ("format", "family")}
    assert ["points", "box", "mask_input", "masks"] == sam["capabilities"]
    assert datetime.fromisoformat(sam["modified_at"]) <= datetime.now(UTC)
    assert ["texts"] == here["yoloworld:latest"]["capabilities"]


def test_show(client: httpx2.Client, fresh: WebModel) -> None:
    """A model of the catalogue tells its licence and abilities before it is pulled."""
    shown = client.post("/api/show", json={"model": fresh.name.removesuffix(":latest")}).json()
    assert (fresh.name, "MIT", "https://example.org/licence") == (
        shown["name"],
        shown["license"],
        shown["license_url"],
    )
    assert (False, False, None) == (shown["is_present"], shown["is_loaded"], shown["size"])
    assert shown["download_size"] is None, "the catalogue of the tests gives no sizes"
    assert "points, one box" == shown["takes"]
    assert set(fresh.contents) == {blob["role"] for blob in shown["blobs"]}


def test_catalog(client: httpx2.Client, fresh: WebModel) -> None:
    """Every model is listed as it is shown, whether it is here or not."""
    listed = models(client, "/api/catalog")

    assert {BUILTIN, "sam:latest", "yoloworld:latest", fresh.name} <= set(listed)
    for name in (BUILTIN, "yoloworld:latest", fresh.name):
        assert client.post("/api/show", json={"model": name}).json() == listed[name]
    assert [True, False] == [listed[name]["is_present"] for name in (BUILTIN, fresh.name)]
    assert listed[fresh.name]["may_pull"]


def test_catalog_tells_whether_this_caller_may_pull(tmp_path: Path) -> None:
    """A key with the role ``user`` reads the catalogue, and in it that pulling is not for it."""
    (tmp_path / "keys").write_text("someone user user-key-2mQv-Rt58\n")
    env = {"API_KEY": KEY, "API_KEY_FILE": str(tmp_path / "keys"), "OSAMD_PULL": "auto", "OSAMD_PRELOAD": "none"}
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running:
        for key, may_pull in ((KEY, True), ("user-key-2mQv-Rt58", False)):
            with running.client(headers={"X-API-Key": key}) as client:
                assert {may_pull} == {model["may_pull"] for model in models(client, "/api/catalog").values()}


def test_blob_urls_show_no_secrets(tmp_path: Path) -> None:
    """Passwords and signatures in blob URLs are never shown; server paths only to admins."""
    (tmp_path / "keys").write_text("someone user user-key-2mQv-0a8c\n")
    signed = "https://name:hush-pw@example.org/e.onnx?X-Signature=hush-sig#hush"
    here = (tmp_path / "decoder.onnx").as_uri()
    (tmp_path / "models.toml").write_text(
        f"""
        [[model]]
        name = "secret"
        family = "sam"
        blobs.encoder = {{url = "{signed}", sha256 = "{"0" * 64}"}}
        blobs.decoder = {{url = "{here}"}}
        """
    )
    env = {
        "API_KEY": KEY,
        "API_KEY_FILE": str(tmp_path / "keys"),
        "OSAMD_CATALOG": str(tmp_path / "models.toml"),
        "OSAMD_PRELOAD": "none",
    }
    with run_server(cache=tmp_path, env=env, wait_for="/health") as running:
        for key, path in ((KEY, here), ("user-key-2mQv-0a8c", None)):
            with running.client(headers={"X-API-Key": key}) as client:
                shown = client.post("/api/show", json={"model": "secret"})
                listed = client.get("/api/catalog")
            assert "hush" not in shown.text + listed.text
            assert ["https://example.org/e.onnx", path] == [blob["url"] for blob in shown.json()["blobs"]]
            assert (path is None) == (str(tmp_path) not in shown.text + listed.text)
        assert "hush" not in running.log_text()


def test_show_of_shipped_rows(client: httpx2.Client) -> None:
    """Aliases lead to their model, and the licences that are not everybody's are named."""
    assert "sam:latest" == client.post("/api/show", json={"model": "sam_vit_h"}).json()["name"]
    assert "Apache-2.0" == client.post("/api/show", json={"model": "builtin"}).json()["license"]


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        ('{"name": "builtin"}', {"Content-Type": "application/json"}),
        ('{"model": "builtin"}', {"Content-Type": "application/x-www-form-urlencoded"}),
        ('{"model": "builtin"}', {}),
    ],
    ids=["ollama's older spelling", "curl's default", "no type"],
)
def test_bodies_as_ollamas_users_send_them(client: httpx2.Client, content: str, headers: dict[str, str]) -> None:
    """The older field and the header that curl sends by itself are understood."""
    response = client.post("/api/show", content=content, headers=headers)
    assert BUILTIN == response.json()["name"], response.text


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/show", {}, "model"),
        ("/api/show", {"model": ""}, "model"),
        ("/api/show", {"model": 7}, "model"),
        ("/api/pull", {"model": "builtin", "stream": "no"}, "stream"),
    ],
    ids=str,
)
def test_wrong_bodies_are_refused(client: httpx2.Client, path: str, body: Any, field: str) -> None:
    """A body of the wrong form gets 422 with the field at fault."""
    problem = refusal(client.post(path, json=body))
    assert (422, field) == (problem["status"], problem["field"])


@pytest.mark.parametrize("content", ["", "nonsense", "[]", "null"])
def test_bodies_that_are_no_object_are_refused(client: httpx2.Client, content: str) -> None:
    """What is not a JSON object gets 422, never 500."""
    assert "invalid_request" == refusal(client.post("/api/pull", content=content))["code"]


@pytest.mark.parametrize(("method", "path"), ROUTES[4:])
def test_unknown_models(client: httpx2.Client, method: str, path: str) -> None:
    """A name that the catalogue does not have is 404."""
    problem = refusal(client.request(method, path, json={"model": "nosuch"}))
    assert (404, "unknown_model") == (problem["status"], problem["code"])


def test_pull_tells_how_it_goes(library: Library, client: httpx2.Client, fresh: WebModel) -> None:
    """Lines of JSON: the licence first, each file with its digest and size, success at the end; then it is here."""
    lines = pull(client, fresh)
    assert f"pulling manifest of {fresh.name}, licence MIT" == lines[0]["status"]
    assert {"status": "success"} == lines[-1]
    for place, content in zip(fresh.places(library.cache), fresh.contents.values(), strict=True):
        assert content == place.read_bytes()
        digest = place.name.removeprefix("sha256-")
        told = [line for line in lines if line.get("digest") == f"sha256:{digest}"]
        assert f"pulling {digest[:12]}" == told[0]["status"]
        assert {len(content)} == {line["total"] for line in told if "total" in line}
        assert len(content) == told[-1]["completed"]
    assert fresh.name in models(client, "/api/tags")


def test_pull_in_one_answer(client: httpx2.Client, fresh: WebModel) -> None:
    """Without ``stream`` there is one answer, when it is here, with the licence in a header."""
    response = client.post("/api/pull", json={"model": fresh.name, "stream": False})
    assert {"status": "success"} == response.json()
    assert "MIT" == response.headers["X-Osamd-License"]
    assert fresh.name in models(client, "/api/tags")


def test_pull_again_verifies(library: Library, client: httpx2.Client, fresh: WebModel) -> None:
    """A pull of a model that is here reads its files, and downloads again only one that is damaged."""
    pull(client, fresh)
    asked = len(library.web.asked)
    lines = pull(client, fresh)
    assert "verifying sha256 digest" in {line["status"] for line in lines}
    assert asked == len(library.web.asked)
    damaged, whole = fresh.places(library.cache)
    damaged.write_bytes(b"damaged")
    assert {"status": "success"} == pull(client, fresh)[-1]
    assert [f"/{damaged.name.removeprefix('sha256-')}"] == [one.path for one in library.web.asked[asked:]]
    assert fresh.contents["encoder"] == damaged.read_bytes()
    assert fresh.contents["decoder"] == whole.read_bytes()


def test_builtin_needs_no_pull(client: httpx2.Client) -> None:
    """A pull of what ships with osamd succeeds at once."""
    assert {"status": "success"} == pull(client, "builtin")[-1]


def test_two_callers_share_a_pull(library: Library, client: httpx2.Client, fresh: WebModel) -> None:
    """Who asks for a model that is being pulled joins that pull; each file is asked for once."""
    asked = len(library.web.asked)
    last_lines: list[str] = []
    all_here = threading.Barrier(3)

    def call() -> None:
        with library.server.client() as own, own.stream("POST", "/api/pull", json={"model": fresh.name}) as response:
            lines = response.iter_lines()
            next(lines)
            all_here.wait(WAIT_S)
            last_lines.append(list(lines)[-1])

    with held_back(fresh) as go_on:
        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        all_here.wait(WAIT_S)
        client.get("/api/version")
        go_on.set()
        for caller in callers:
            caller.join(WAIT_S)
    assert ['{"status":"success"}'] * 2 == last_lines
    assert len(fresh.contents) == len(library.web.asked) - asked
    assert 1 == library.server.log_text().count(f"pulling {fresh.name}, ")


def test_pull_goes_on_without_its_caller(client: httpx2.Client, fresh: WebModel) -> None:
    """A caller who hangs up does not stop the pull."""
    with (
        held_back(fresh) as go_on,
        client.stream("POST", "/api/pull", json={"model": fresh.name}) as response,
    ):
        lines = response.iter_lines()
        assert "manifest" in next(lines)
        assert "pulling" in next(lines)
        response.close()
        go_on.set()
    until(lambda: fresh.name in models(client, "/api/tags"))


def test_error_in_the_middle_of_a_pull(library: Library, client: httpx2.Client, fresh: WebModel) -> None:
    """What goes wrong after the first line is the last line; nothing of the kind lies under the final name."""
    fresh.served["decoder"].then = Answer(status=404)
    lines = pull(client, fresh)
    assert "pull_failed" == lines[-1]["code"]
    assert "127.0.0.1" not in lines[-1]["error"]
    encoder, decoder = fresh.places(library.cache)
    assert (True, False) == (encoder.exists(), decoder.exists())
    assert fresh.name not in models(client, "/api/tags")
    assert f"could not pull {fresh.name}" in library.server.log_text()
    fresh.served["decoder"].then = Answer()
    assert {"status": "success"} == pull(client, fresh)[-1]


def test_wrong_content_is_refused(library: Library, client: httpx2.Client, fresh: WebModel) -> None:
    """A file that is not what the catalogue says is 503 with its own code, and is not kept."""
    fresh.served["encoder"].then = Answer(body=b"x" * len(fresh.contents["encoder"]))
    problem = refusal(client.post("/api/pull", json={"model": fresh.name, "stream": False}))
    assert (503, "blob_digest_mismatch") == (problem["status"], problem["code"])
    assert not any(place.exists() for place in fresh.places(library.cache))


@pytest.mark.parametrize("setting", [{"OSAMD_PULL": "never"}, {"OSAMD_MODELS": "sam:100m, fresh1"}], ids=str)
def test_operator_forbids_pulls(tmp_path: Path, photo: bytes, setting: dict[str, str]) -> None:
    """Where the operator says so, no caller can fill the disk; the answer names what is missing."""
    with run_library(tmp_path, fresh=2, env=setting) as closed, closed.server.client() as client:
        fresh = next(closed.fresh)
        assert not models(client, "/api/catalog")[fresh.name]["may_pull"]
        for stream in (True, False):
            problem = refusal(client.post("/api/pull", json={"model": fresh.name, "stream": stream}))
            assert (403, "pull_forbidden", "model") == (problem["status"], problem["code"], problem["field"])
        body = {"image": base64_of(photo), "model": fresh.name}
        response = client.post(GENERATE, json=body)
        problem = refusal(response)
        assert (503, "model_unavailable") == (problem["status"], problem["code"])
        assert fresh.places(Path())[0].name in problem["detail"]
        assert not closed.web.asked
        # What is here, or on the list, works.
        assert ask(client, photo, model="efficientsam:10m")["annotations"]
        if "OSAMD_MODELS" in setting:
            assert {"status": "success"} == pull(client, "fresh1")[-1]


def test_delete(library: Library, client: httpx2.Client, photo: bytes, fresh: WebModel) -> None:
    """A deleted model is unloaded and its files are gone; a second deletion is 404; a request pulls it again."""
    ask(client, photo, model=fresh.name)
    assert fresh.name in models(client, "/api/ps")
    assert 200 == delete(client, fresh.name).status_code
    assert fresh.name not in models(client, "/api/ps")
    assert fresh.name not in models(client, "/api/tags")
    assert not any(place.exists() for place in fresh.places(library.cache))
    problem = refusal(delete(client, fresh.name))
    assert (404, "model") == (problem["status"], problem["field"])
    assert ask(client, photo, model=fresh.name)["annotations"]


def test_delete_what_a_pull_left(library: Library, client: httpx2.Client, fresh: WebModel) -> None:
    """A model that came only in part is not here, yet its files can be deleted."""
    fresh.served["decoder"].then = Answer(status=404)
    pull(client, fresh)
    assert 200 == delete(client, fresh.name).status_code
    assert not any(place.exists() for place in fresh.places(library.cache))
    assert 404 == delete(client, fresh.name).status_code


@pytest.mark.parametrize("name", [BUILTIN, "efficientsam:10m"])
def test_delete_of_what_is_not_ours_is_refused(library: Library, client: httpx2.Client, name: str) -> None:
    """Files that ship with osamd, or that lie where the user has them, are not deleted."""
    problem = refusal(delete(client, name))
    assert (422, "invalid_request") == (problem["status"], problem["code"])
    assert name in models(client, "/api/tags")
    assert all(path.exists() for path in library.paths.get(name, {}).values())


def test_delete_keeps_what_another_model_needs(library: Library, client: httpx2.Client) -> None:
    """A blob that two models share goes with the last of them."""
    first, twin = library.named["first"], library.named["twin"]
    pull(client, first)
    pull(client, twin)
    shared, own = first.places(library.cache)
    assert 200 == delete(client, first.name).status_code
    assert (True, False) == (shared.exists(), own.exists())
    assert twin.name in models(client, "/api/tags")
    assert 200 == delete(client, twin.name).status_code
    assert not shared.exists()


def seconds_left(client: httpx2.Client, name: str) -> float | None:
    """How long a model stays loaded, or None for until its room is needed."""
    until_text = models(client, "/api/ps")[name]["expires_at"]
    return None if until_text is None else (datetime.fromisoformat(until_text) - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize(("wish", "seconds"), [("5m", 300), ("90s", 90), (120, 120), (45.5, 45.5), ("2h", 7200)])
def test_keep_alive(client: httpx2.Client, photo: bytes, wish: str | float, seconds: float) -> None:
    """A model stays loaded as long as the request says, in each spelling; /api/ps says until when."""
    ask(client, photo, model="sam:300m", keep_alive=wish)
    assert seconds_left(client, "sam:300m") == pytest.approx(seconds, abs=10)


def test_keep_alive_lasts_until_somebody_says_otherwise(client: httpx2.Client, photo: bytes) -> None:
    """A pinned model stays pinned after requests that say nothing, and is let go at once with 0."""
    ask(client, photo, model="sam2:tiny", keep_alive=-1)
    ask(client, photo, model="sam2:tiny")
    assert "9999-12-31T00:00:00Z" == models(client, "/api/ps")["sam2:tiny"]["expires_at"]
    ask(client, photo, model="sam2:tiny", keep_alive=0)
    assert "sam2:tiny" not in models(client, "/api/ps")


def test_expired_models_are_let_go(library: Library, client: httpx2.Client, photo: bytes) -> None:
    """When its time is up, a model that nobody used is unloaded by itself."""
    ask(client, photo, model="freie", keep_alive="300ms")
    until(lambda: "freie:latest" not in models(client, "/api/ps"))
    assert "unloaded freie:latest" in library.server.log_text()


@pytest.mark.parametrize("wish", ["soon", "5 minutes", "1e3", "nan", True, [5], {}, "5d"], ids=str)
def test_nonsense_keep_alive_is_refused(client: httpx2.Client, photo: bytes, wish: Any) -> None:
    """What is no duration is 422 that names the field."""
    response = client.post(GENERATE, json={"image": base64_of(photo), "model": "builtin", "keep_alive": wish})
    problem = refusal(response)
    assert (422, "keep_alive") == (problem["status"], problem["field"])


def test_ps(client: httpx2.Client, photo: bytes) -> None:
    """Loaded models tell their device; without a wish they stay until their room is needed."""
    ask(client, photo, model="efficientsam:10m")
    loaded = models(client, "/api/ps")["efficientsam:10m"]
    assert ("cpu", None, 0) == (loaded["device"], loaded["expires_at"], loaded["size_vram"])
    assert loaded["size"] > 0
    assert client.post("/api/show", json={"model": "efficientsam:10m"}).json()["is_loaded"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [("builtin", "Apache-2.0"), ("efficientsam:10m", "unknown"), ("freie", "Lizenz f?r alle, frei")],
)
def test_licence_comes_with_every_mask(client: httpx2.Client, photo: bytes, model: str, expected: str) -> None:
    """Each answer names its model's licence, in letters that a header can carry."""
    body = {"image": base64_of(photo), "model": model, "prompt": click(CLICK)}
    assert expected == client.post(GENERATE, json=body).headers["X-Osamd-License"]


def test_licence_is_logged_before_a_first_pull(
    library: Library, client: httpx2.Client, photo: bytes, fresh: WebModel
) -> None:
    """The log tells the licence of a model before the first byte of it comes."""
    ask(client, photo, model=fresh.name)
    log = library.server.log_text()
    told = log.index(f"pulling {fresh.name}, under the licence MIT https://example.org/licence")
    assert told < log.index(f"pulled {fresh.name}") < log.index(f"loaded {fresh.name}")


def test_bad_rows_are_told_at_start(tmp_path: Path) -> None:
    """A server tells which rows of the user's catalogue it left out, and serves the rest."""
    rows = tmp_path / "models.toml"
    rows.write_text('[[model]]\nname = "mine"\nfamily = "nosuch"\n', "utf-8")
    cache = tmp_path / "cache"
    cache.mkdir()
    env = {"API_KEY": KEY, "OSAMD_CATALOG": str(rows)}
    with run_server(cache=cache, env=env) as running, running.client() as client:
        assert {BUILTIN} <= set(models(client, "/api/tags"))
        assert f"left out of the catalogue: {rows}: row 1 (mine), family must be one of" in running.log_text()
