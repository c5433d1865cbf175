"""Label Studio's door, with the requests of its server and its page, and a stand-in that serves images as it does."""

import asyncio
import base64
import contextlib
import io
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import CLICK, ask, only_mask
from blob_server import serve_blobs
from pictures import Inside, inside_of, iou
from PIL import Image, ImageDraw
from pydantic import SecretStr
from serving import KEY
from shelf import Library, run_library
from threaded import serving

from osamd.pixels.brush import decode_brush, encode_brush
from osamd.pixels.masks import mask_from_array
from osamd.server.guard.label_studio import LabelStudio
from osamd.server.guard.remote_images import RemoteImages
from osamd.settings import Settings

WIDTH, HEIGHT = 451, 300
# A Personal Access Token, and what it is exchanged for.
TOKEN = "aaa.bbb.ccc-not-a-secret"
BASIC = {"Authorization": "Basic " + base64.b64encode(f"osamd:{KEY}".encode()).decode()}
BRUSH = '<BrushLabels name="tag" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>'
SMART = (
    '<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>'
    '<RectangleLabels name="rect" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>'
)


def config(outputs: str = BRUSH) -> str:
    """A labelling configuration with smart tools."""
    return f'<View><Image name="image" value="$photo"/>{SMART}{outputs}</View>'


@dataclass
class Studio:
    """Label Studio, as far as it serves images.

    Attributes:
        photo: the only image.
        asked: paths of its requests, with the authorization of each.
        exchanges: how often the token was exchanged.
        storage: where it redirects to for images in cloud storage.
        url: where it listens.
    """

    photo: bytes
    asked: list[tuple[str, str]] = field(default_factory=list)
    exchanges: int = 0
    storage: str = "http://storage.example/photo.jpg"
    url: str = ""

    @property
    def access(self) -> str:
        """The token that is valid now."""
        return f"access-{self.exchanges}"

    def reply(self, path: str, given: str, accept: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the reply to a GET."""
        if given != f"Bearer {self.access}":
            return 401, b"", {}
        if "*/*" not in accept:
            # Its framework knows no media type of images.
            return 406, b"", {}
        if path.startswith(("/data/upload/1/", "/storage-data/uploaded/?filepath=upload%2F2%2F")):
            return 200, self.photo, {}
        if path.startswith("/tasks/8/presign/"):
            return 303, b"", {"Location": self.storage}
        return 404, b"", {}


@contextlib.contextmanager
def serve_studio(studio: Studio) -> Iterator[Studio]:
    """Serve it on a free port of the loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def send(self, status: int, body: bytes = b"", **headers: str) -> None:
            """A reply."""
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            """The exchange of a token."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/api/token/refresh" or body != {"refresh": TOKEN}:
                self.send(401)
                return
            studio.exchanges += 1
            self.send(200, json.dumps({"access": studio.access}).encode())

        def do_GET(self) -> None:
            """An image, for those who have signed in."""
            given = self.headers.get("Authorization", "")
            studio.asked.append((self.path, given))
            status, body, headers = studio.reply(self.path, given, self.headers.get("Accept", "*/*"))
            self.send(status, body, **headers)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own signature
            """Nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as studio.url:
        yield studio


@pytest.fixture(scope="module")
def studio(photo: bytes) -> Iterator[Studio]:
    """The operator's Label Studio."""
    with serve_studio(Studio(photo)) as running:
        yield running


@pytest.fixture(scope="module")
def osamd_server(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """A server with a model of each family, which knows that Label Studio."""
    env = {
        "OSAMD_DOORS": "label-studio",
        "OSAMD_LABEL_STUDIO_URL": f"{studio.url}/",
        "OSAMD_LABEL_STUDIO_TOKEN": TOKEN,
    }
    with run_library(tmp_path_factory.mktemp("studio"), env=env) as running:
        yield running


@pytest.fixture
def door(osamd_server: Library) -> Iterator[httpx2.Client]:
    """A client with the key as Label Studio sends it."""
    with osamd_server.server.client(headers=BASIC) as opened:
        yield opened


def region(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Something drawn, as the page sends it."""
    common = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "origin": "manual"}
    name = {"keypointlabels": "kp", "rectanglelabels": "rect"}.get(kind, "tag")
    labelled = value if kind in value else {**value, kind: ["Cat"]}
    own = {"id": secrets.token_urlsafe(7), "from_name": name, "to_name": "image", "type": kind}
    return {**common, "value": labelled, **own, **more}


def click(x: float, y: float, **more: Any) -> dict[str, Any]:
    """A key point at a pixel."""
    return region("keypointlabels", {"x": 100 * x / WIDTH, "y": 100 * y / HEIGHT, "width": 0.26}, **more)


def body(*drawn: dict[str, Any], outputs: str = BRUSH, photo: str = "/data/upload/1/cat.jpg", **task: Any) -> Any:
    """The body of an interactive call."""
    return {
        "tasks": [{"id": 8, "data": {"photo": photo, "image": "x"}, **task}],
        "project": "12.17",
        "label_config": config(outputs),
        "params": {"login": None, "password": None, "context": {"result": list(drawn)} if drawn else None},
    }


def predict(door: httpx2.Client, asked: Any, model: str = "builtin") -> list[dict[str, Any]]:
    """The regions of the reply's only result."""
    reply = door.post(f"/label-studio/{model}/predict", json=asked)
    assert 200 == reply.status_code, reply.text
    (result,) = reply.json()["results"]
    assert result["model_version"].startswith(model.split("-", maxsplit=1)[0])
    regions: list[dict[str, Any]] = result["result"]
    return regions


def brushed(found: dict[str, Any]) -> Inside:
    """The pixels of a brush region, at image size."""
    assert "rle" == found["value"]["format"]
    size = (found["original_height"], found["original_width"])
    mask = decode_brush(bytes(found["value"]["rle"]), height=size[0], width=size[1])
    full = np.zeros(size, np.bool_)
    if mask is not None:
        full[mask.box.ymin : mask.box.ymax + 1, mask.box.xmin : mask.box.xmax + 1] = mask.inside
    return full


@pytest.fixture
def own(osamd_server: Library, photo: bytes) -> Any:
    """The mask of ``/api/generate`` for a prompt."""

    def mask(**prompt: Any) -> Inside:
        with osamd_server.server.client() as client:
            return only_mask(ask(client, photo, prompt=prompt))

    return mask


def test_connecting_a_project(door: httpx2.Client, osamd_server: Library) -> None:
    """What Label Studio calls when a backend is saved; the address and token in it get no request and no line."""
    assert "UP" == door.get("/label-studio/builtin/health").json()["status"]
    assert 404 == door.get("/label-studio/nothing/health").status_code
    given = {
        "hostname": "http://evil.example",
        "access_token": "legacy-token-7Hq",
        "schema": config(),
        "project": "1.2",
    }
    assert {"model_version": "sam2:tiny"} == door.post("/label-studio/sam2-tiny/setup", json=given).json()
    listed = door.request("GET", "/label-studio/sam2:tiny/versions", json={"project": "1"})
    assert {"versions": ["sam2:tiny"]} == listed.json()
    with osamd_server.server.client(headers={}) as anonymous:
        hook = anonymous.post("/label-studio/builtin/webhook", content=b"{" * 70_000)
        assert 200 == hook.status_code
        refused = anonymous.get("/label-studio/builtin/health")
        assert (401, "Basic") == (refused.status_code, refused.headers["WWW-Authenticate"])
        assert 401 == anonymous.post("/label-studio/builtin/predict", json=body(click(*CLICK))).status_code
    assert "legacy-token-7Hq" not in osamd_server.server.log_text()


def test_clicks(door: httpx2.Client, own: Any, studio: Studio) -> None:
    """Positive and negative ones, and after a reload those without a sign; the image is fetched once."""
    (found,) = predict(door, body(click(*CLICK, is_positive=True)))
    assert ("brushlabels", "tag", "image") == (found["type"], found["from_name"], found["to_name"])
    assert (WIDTH, HEIGHT) == (found["original_width"], found["original_height"])
    assert ["Cat"] == found["value"]["brushlabels"]
    assert (brushed(found) == own(points=[CLICK], point_labels=[1])).all()
    asked = len(studio.asked)
    points = [CLICK, [430, 160]]
    (found,) = predict(door, body(click(*points[0]), click(*points[1], is_positive=False)))
    assert (brushed(found) == own(points=points, point_labels=[1, 0])).all()
    (found,) = predict(
        door, body(click(*points[0]), region("keypointlabels", {"x": 95.3, "y": 53.3, "positive": False}))
    )
    assert iou(brushed(found), own(points=points, point_labels=[1, 0])) > 0.98
    assert asked == len(studio.asked)


def unsigned(drawn: dict[str, Any]) -> dict[str, Any]:
    """A key point as the page sends it after a reload."""
    return {name: value for name, value in drawn.items() if name != "is_positive"}


def test_a_negative_click_stays_negative_after_a_reload(door: httpx2.Client, own: Any) -> None:
    """The page then sends it without its sign, and soon overwrites the draft that had it."""
    first, second = click(*CLICK, is_positive=True), click(430, 160, is_positive=False)
    third = click(150, 100, is_positive=True)
    predict(door, body(first, second))
    expected = own(points=[CLICK, [430, 160], [150, 100]], point_labels=[1, 0, 1])
    (found,) = predict(door, body(unsigned(first), unsigned(second), third))
    assert (brushed(found) == expected).all()
    # Region ids are not unique across tasks.
    (found,) = predict(door, body(unsigned(first), unsigned(second), third, id=9))
    assert (brushed(found) == own(points=[CLICK, [430, 160], [150, 100]], point_labels=[1, 1, 1])).all()


@pytest.mark.parametrize("place", ["drafts", "annotations"])
def test_a_negative_click_is_recognised_in_what_label_studio_kept(door: httpx2.Client, own: Any, place: str) -> None:
    """For a server that has not seen it before; among large masks, in any order of the keys."""
    first, second = click(*CLICK, is_positive=True), click(430, 160, is_positive=False)
    large = region("brushlabels", {"format": "rle", "rle": [255] * 200_000, "is_positive": False})
    kept: Any = {place: [{"id": 4, "result": [large, first, dict(sorted(second.items()))]}]}
    points = [CLICK, [430, 160], [150, 100]]
    asked = [unsigned(first), unsigned(second), click(150, 100, is_positive=True)]
    (found,) = predict(door, body(*asked, **kept))
    assert (brushed(found) == own(points=points, point_labels=[1, 0, 1])).all()
    # From now on without them, too.
    (found,) = predict(door, body(*asked))
    assert (brushed(found) == own(points=points, point_labels=[1, 0, 1])).all()


@pytest.mark.parametrize("kept", [{}, [], [{"result": 7}], [{"result": [7, {"id": []}]}], {"result": [{"id": "a"}]}, 7])
def test_what_label_studio_kept_may_have_any_form(door: httpx2.Client, own: Any, kept: Any) -> None:
    """Nothing else of it is read."""
    asked = unsigned(click(*CLICK))
    (found,) = predict(door, body(asked, drafts=kept, annotations=kept))
    assert (brushed(found) == own(points=[CLICK], point_labels=[1])).all()


def test_boxes_and_other_shapes(door: httpx2.Client, own: Any) -> None:
    """A box, also one that ends beyond the image; an ellipse and a polygon are the box around them."""
    expected = own(box=[45.1, 30, 405.9, 300])
    percent = {"x": 10, "y": 10, "width": 80, "height": 90, "rotation": 0}
    (found,) = predict(door, body(region("rectanglelabels", percent)))
    assert (brushed(found) == expected).all()
    ellipse = {"x": 50, "y": 55, "radiusX": 40, "radiusY": 45}
    (found,) = predict(door, body(region("ellipselabels", ellipse)))
    assert iou(brushed(found), expected) > 0.99
    (found,) = predict(door, body(region("polygonlabels", {"points": [[10, 10], [90, 50], [50, 100]]})))
    assert iou(brushed(found), expected) > 0.99
    (found,) = predict(door, body(region("rectanglelabels", percent | {"width": 95})))
    assert brushed(found).any()


def test_a_brush_stroke_is_points_along_it(door: httpx2.Client, own: Any) -> None:
    """Its pixels come as run lengths, without x and y."""
    stroke = np.zeros((HEIGHT, WIDTH), np.bool_)
    stroke[140:160, 150:300] = True
    mask = mask_from_array(stroke, offset=(0, 0), height=HEIGHT, width=WIDTH)
    assert mask is not None
    drawn = region("brushlabels", {"format": "rle", "rle": encode_brush(mask)})
    (found,) = predict(door, body(drawn))
    assert iou(brushed(found), own(points=[CLICK], point_labels=[1])) > 0.8


@pytest.mark.parametrize("kind", ["bitmask", "polygon", "rectangle"])
def test_other_outputs(door: httpx2.Client, own: Any, kind: str) -> None:
    """As the labelling configuration asks, unless it also has a more faithful one."""
    name = kind.title() + "Labels"
    outputs = f'<{name} name="out" toName="image"><Label value="Cat"/></{name}>'
    found = predict(door, body(click(*CLICK), outputs=outputs))
    assert {"rect" if kind == "rectangle" else "out"} == {one["from_name"] for one in found}
    expected = own(points=[CLICK], point_labels=[1])
    value = found[0]["value"]
    assert ["Cat"] == value[f"{kind}labels"]
    if kind == "bitmask":
        head, _, data = value["imageDataURL"].partition(",")
        assert "data:image/png;base64" == head
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert (HEIGHT, WIDTH, 4) == pixels.shape
        assert ((pixels[:, :, 3] == 255) == expected).all()
    elif kind == "polygon":
        canvas = Image.new("1", (WIDTH, HEIGHT))
        for one in found:
            corners = [(x * WIDTH / 100 - 0.5, y * HEIGHT / 100 - 0.5) for x, y in one["value"]["points"]]
            ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
        assert iou(np.asarray(canvas), expected) > 0.97
    else:
        rows, columns = np.nonzero(expected)
        x, y, width, height = (value[side] for side in ("x", "y", "width", "height"))
        assert columns.min() == pytest.approx(x * WIDTH / 100)
        assert columns.max() + 1 == pytest.approx((x + width) * WIDTH / 100)
        assert rows.min() == pytest.approx(y * HEIGHT / 100)
        assert rows.max() + 1 == pytest.approx((y + height) * HEIGHT / 100)


def test_the_images_come_from_that_label_studio_alone(door: httpx2.Client, studio: Studio) -> None:
    """Signed in with a token that is renewed; no other path, and no other host, which would get the token."""
    studio.exchanges += 1
    (found,) = predict(door, body(click(*CLICK), photo="/data/upload/1/renewed.jpg"))
    assert brushed(found).any()
    assert ("/data/upload/1/renewed.jpg", f"Bearer {studio.access}") == studio.asked[-1]
    predict(door, body(click(*CLICK), photo=f"{studio.url}/data/upload/1/whole-url.jpg"))
    predict(door, body(click(*CLICK), photo="/data/upload/2/in-its-storage.jpg"))
    before = len(studio.asked)
    for photo, code in [
        ("/api/users", "url_refused"),
        ("/data/../api/users", "url_refused"),
        ("/data/%2e%2e/api/users", "url_refused"),
        ("//evil.example/data/upload/1/cat.jpg", "url_refused"),
        ("http://evil.example/cat.jpg", "url_refused"),
        (studio.url.replace("127.0.0.1", "localhost") + "/data/upload/1/cat.jpg", "url_refused"),
        ("", "invalid_request"),
        ("file:///etc/passwd", "url_refused"),
    ]:
        reply = door.post("/label-studio/builtin/predict", json=body(click(*CLICK), photo=photo))
        assert (422, code) == (reply.status_code, reply.json()["code"]), photo
    assert before == len(studio.asked)
    missing = door.post("/label-studio/builtin/predict", json=body(click(*CLICK), photo="/data/upload/3/none.jpg"))
    assert "OSAMD_LABEL_STUDIO_TOKEN" in missing.json()["message"]
    studio.storage = "http://storage.example/photo.jpg"
    # A redirect to cloud storage is subject to the usual rules.
    stored = door.post("/label-studio/builtin/predict", json=body(click(*CLICK), photo="s3://bucket/cat.jpg"))
    assert "url_refused" == stored.json()["code"]
    uri = base64.urlsafe_b64encode(b"s3://bucket/cat.jpg").decode()
    assert f"/tasks/8/presign/?fileuri={uri}" == studio.asked[-1][0]


def test_the_token_goes_nowhere_else(studio: Studio, photo: bytes) -> None:
    """A redirect to another port of the same host, which the operator allows, gets the request without it."""
    with serve_blobs() as storage:
        storage.put("/photo.jpg", photo)
        studio.storage = storage.url + "/photo.jpg"
        port = storage.url.rpartition(":")[2]
        settings = Settings(
            label_studio_url=studio.url,
            label_studio_token=SecretStr(TOKEN),
            url_hosts=(f"127.0.0.1:{port}",),
            url_schemes=("http",),
            url_networks=("127.0.0.0/8",),
        )
        label_studio = LabelStudio(settings, RemoteImages(settings))
        assert photo == asyncio.run(label_studio.fetch("s3://bucket/cat.jpg", task="8", owner="me"))
        (asked,) = storage.asked
    assert "authorization" not in asked.headers


def test_the_token_is_nowhere_to_be_read(osamd_server: Library) -> None:
    """Not in the log either."""
    text = osamd_server.server.log_text()
    assert TOKEN not in text
    assert "Bearer" not in text


def test_finished_masks_are_skipped(door: httpx2.Client) -> None:
    """A task with far more values than a body may have, in drafts, annotations and predictions."""
    finished = [{"result": [region("brushlabels", {"format": "rle", "rle": [255] * 50_000})]}] * 4
    lists: Any = {"annotations": finished, "drafts": finished, "predictions": finished}
    (found,) = predict(door, body(click(*CLICK), **lists))
    assert brushed(found).any()


def test_words_annotate_before_people_do(door: httpx2.Client, osamd_server: Library, photo: bytes) -> None:
    """Labels are the words; with other words in ``predicted_values`` too. Several tasks are asked for one by one."""
    outputs = BRUSH.replace('value="Dog"', 'value="Hund" predicted_values="dog"')
    found = predict(door, body(outputs=outputs), "sam3")
    with osamd_server.server.client() as client:
        expected = ask(client, photo, model="sam3", prompt={"texts": ["Cat", "dog", "Hund"]})["annotations"]
    assert expected
    labels = {"Cat": "Cat", "dog": "Hund", "Hund": "Hund"}
    assert [labels[item["text"]] for item in expected] == [one["value"]["brushlabels"][0] for one in found]
    for one, item in zip(found, expected, strict=True):
        assert (brushed(one) == inside_of(item)).all()
        assert item["score"] == pytest.approx(one["score"])
    boxes = predict(door, body(outputs=""), "yoloworld")
    assert {"rectanglelabels"} == {one["type"] for one in boxes}
    several = body()
    several["tasks"] *= 3
    assert {"results": [{"result": []}]} == door.post("/label-studio/sam3/predict", json=several).json()


def test_a_model_without_words_says_nothing(door: httpx2.Client) -> None:
    """An empty result would be stored as a prediction."""
    assert {"results": []} == door.post("/label-studio/builtin/predict", json=body()).json()


def test_prewarm_encodes_the_image(door: httpx2.Client, studio: Studio) -> None:
    """So that the first click finds it there."""
    warm = body(photo="/data/upload/1/warm.jpg")
    warm["params"]["context"] = {"event": "prewarm", "frame": 0, "window": 1}
    reply = door.post("/label-studio/builtin/predict", json=warm)
    assert "ok" == reply.json()["results"][0]["value"]["status"]
    asked = len(studio.asked)
    click_body = body(click(*CLICK), photo="/data/upload/1/warm.jpg")
    clicked = door.post("/label-studio/builtin/predict", json=click_body)
    assert "hit" == clicked.headers["X-Osamd-Cache"]
    assert asked == len(studio.asked)


@pytest.mark.parametrize(
    ("drawn", "change", "word"),
    [
        (click(1, 1), {"label_config": "<View"}, "XML"),
        (click(1, 1), {"label_config": "<!DOCTYPE a [<!ENTITY b 'c'>]><View/>"}, "DTD"),
        (click(1, 1), {"label_config": "<View/>"}, "with an Image tag"),
        (click(1, 1), {"label_config": f"<View>{'<a>' * 200_000}"}, "600,006 bytes: the limit is 500,000"),
        (click(1, 1), {"label_config": config("").replace("RectangleLabels", "Other")}, "BrushLabels"),
        (click(1, 1), {"label_config": None}, "XML"),
        (click(1, 1, original_width=None), {}, "original_width"),
        (click(1, 1, original_width=10**9), {}, "original_width"),
        (click(10**9, 1), {}, "outside"),
        (region("keypointlabels", {"x": "a", "y": 1}), {}, "percent"),
        (region("keypointlabels", {"x": 1}), {}, "key points"),
        (region("brushlabels", {"rle": [1, 2, 3]}), {}, "run lengths"),
        (region("brushlabels", {"rle": ["a"]}), {}, "bytes"),
        (region("polygonlabels", {"points": [1, 2]}), {}, "points"),
        (region("keypointlabels", {"x": 1, "y": 1, "keypointlabels": ["Cow"]}), {}, "Cow"),
        (click(1, 1), {"tasks": [{"id": 1, "data": {}}]}, "photo"),
        (click(1, 1), {"tasks": {}}, "tasks"),
        (click(1, 1), {"params": {"context": {"result": [7]}}}, "result"),
    ],
)
def test_what_is_wrong_is_refused_in_words(
    door: httpx2.Client, drawn: dict[str, Any], change: dict[str, Any], word: str
) -> None:
    """Label Studio's log shows the status, osamd's the words."""
    reply = door.post("/label-studio/builtin/predict", json=body(drawn) | change)
    assert 422 == reply.status_code, reply.text
    assert word in reply.text


def test_long_texts_and_configurations_are_taken(door: httpx2.Client, photo: bytes) -> None:
    """A task may have a page of text, a configuration a thousand labels, and an image may be in the task itself."""
    many = config("").replace("</View>", "".join(f"<!-- label {number} -->" for number in range(4000)) + "</View>")
    assert len(many) > 70_000
    assert 200 == door.post("/label-studio/builtin/setup", json={"schema": many, "project": "1"}).status_code
    long = body(click(*CLICK)) | {"label_config": many}
    long["tasks"][0]["data"]["text"] = "word " * 20_000
    assert predict(door, long)
    inline = "data:image/jpeg;base64," + base64.b64encode(photo + bytes(60_000)).decode()
    assert len(inline) > 70_000
    assert predict(door, body(click(*CLICK), photo=inline))


def test_ids_are_short(door: httpx2.Client) -> None:
    """They are remembered."""
    for given in (body(click(*CLICK, id="r" * 300)), body(click(*CLICK), id="t" * 300)):
        reply = door.post("/label-studio/builtin/predict", json=given)
        assert (422, True) == (reply.status_code, "id" in reply.json()["detail"])
