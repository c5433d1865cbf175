"""A stand-in for a CVAT server: one task with one image, a queue of requests for an agent, and what came back."""

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from threaded import serving

FUNCTION = 5
TASK = 7
WHEN = "2026-01-01T00:00:00Z"
QUEUE = f"/api/functions/queues/function%3A{FUNCTION}/requests"


@dataclass
class CvatStub:
    """What the stub serves, and what it was sent.

    Attributes:
        photo: the image of the task, as JPEG.
        width: its columns.
        height: its rows.
        labels: names of the task's labels.
        interactive: requests that an agent has not fetched yet.
        function: the function that was created.
        sent: bodies by path, in order.
        url: where it listens.
    """

    photo: bytes
    width: int
    height: int
    labels: Sequence[str] = ("cat",)
    interactive: list[dict[str, Any]] = field(default_factory=list)
    function: dict[str, Any] = field(default_factory=dict)
    sent: list[tuple[str, Any]] = field(default_factory=list)
    url: str = ""

    def bodies(self, end: str) -> list[Any]:
        """The bodies that were sent to paths with this end."""
        return [body for path, body in self.sent if path.endswith(end)]

    def answer(self, method: str, path: str, body: Any) -> Any:
        """JSON, or the bytes of the photo; None for 404."""
        if method != "GET":
            self.sent.append((path, body))
        if path == "/api/functions":
            absent = {"min_neg_points": -1, "startswith_box": False, "startswith_box_optional": False}
            self.function = {"id": FUNCTION, **absent, **body}
            return self.function
        if path == QUEUE + "/acquire":
            waiting = self.interactive if body["request_category"] == "interactive" else []
            return {"ar_assignment": waiting.pop(0) if waiting else None}
        if path.startswith(QUEUE):
            return {}
        return {
            "/api/server/about": {
                "name": "CVAT",
                "description": "",
                "version": "2.80.0",
                "logo_url": "",
                "subtitle": "",
            },
            f"/api/functions/{FUNCTION}": self.function,
            f"/api/tasks/{TASK}": self._task(),
            f"/api/tasks/{TASK}/data/meta": self._frames(),
            f"/api/tasks/{TASK}/data": self.photo,
            f"/api/tasks/{TASK}/annotations": {"version": 0, "tags": [], "shapes": [], "tracks": []},
            "/api/labels": {"count": len(self.labels), "next": None, "previous": None, "results": self._labels()},
            "/api/users/self": {"id": 1, "username": "me"},
        }.get(path.rstrip("/"))

    def _task(self) -> dict[str, Any]:
        nothing = dict.fromkeys(
            ("owner", "assignee", "project_id", "target_storage", "source_storage", "organization", "guide_id")
        )
        return {
            **nothing,
            "id": TASK,
            "name": "task",
            "dimension": "2d",
            "mode": "annotation",
            "subset": "",
            "bug_tracker": "",
            "data_compressed_chunk_type": "imageset",
            "data_original_chunk_type": "imageset",
            "data_chunk_size": 1,
            "size": 1,
            "status": "annotation",
            "updated_date": WHEN,
            "created_date": WHEN,
            "image_quality": 70,
            "overlap": 0,
            "segment_size": 1,
            "consensus_enabled": False,
            "data": 1,
            "jobs": {"url": self.url, "count": 1, "completed": 0, "validation": 0},
            "labels": {"url": f"{self.url}/api/labels?task_id={TASK}"},
            "url": f"{self.url}/api/tasks/{TASK}",
        }

    def _frames(self) -> dict[str, Any]:
        frame = {"width": self.width, "height": self.height, "name": "photo.jpg", "related_files": 0}
        return {
            "chunk_size": 1,
            "size": 1,
            "image_quality": 70,
            "start_frame": 0,
            "stop_frame": 0,
            "frame_filter": "",
            "deleted_frames": [],
            "included_frames": None,
            "storage_method": "file_system",
            "storage": "local",
            "media_type": "image",
            "chunks_updated_date": WHEN,
            "cloud_storage_id": None,
            "frames": [frame],
        }

    def _labels(self) -> list[dict[str, Any]]:
        common: dict[str, Any] = {"color": "#fff", "attributes": [], "type": "any", "sublabels": [], "project_id": None}
        common |= {"task_id": TASK, "parent_id": None, "has_parent": False}
        return [{"id": 11 + index, "name": name, **common} for index, name in enumerate(self.labels)]


def _zipped(photo: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("000000.jpeg", photo)
    return written.getvalue()


@contextlib.contextmanager
def serve_cvat(stub: CvatStub) -> Iterator[CvatStub]:
    """Serve the stub on a free port of the loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            """Any method."""
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)
            found = stub.answer(self.command, address.path, json.loads(content) if content else None)
            is_photo = isinstance(found, bytes)
            if isinstance(found, bytes) and "type=chunk" in address.query:
                found = _zipped(found)
            body = found if isinstance(found, bytes) else json.dumps(found or {"detail": "not found"}).encode()
            self.send_response(404 if found is None else 201 if self.path == "/api/functions" else 200)
            self.send_header("Content-Type", "image/jpeg" if is_photo else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815 - http.server looks for these names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own signature
            """Nothing."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as stub.url:
        yield stub
