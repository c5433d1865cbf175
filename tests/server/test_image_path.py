"""``image_path``: which files of the server may be named."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from asking import CLICK, GENERATE, click, only_mask, refusal
from serving import KEY, RunningServer, run_server


@pytest.fixture(scope="module")
def rooted(tmp_path_factory: pytest.TempPathFactory, photo: bytes) -> Iterator[RunningServer]:
    """A server with an image folder; beside the folder lies a photo it must not give."""
    around = tmp_path_factory.mktemp("around")
    root = around / "root"
    (root / "deeper").mkdir(parents=True)
    (root / "cat.jpg").write_bytes(photo)
    (root / "deeper" / "cat.jpg").write_bytes(photo)
    (root / "empty.jpg").touch()
    (around / "secret.jpg").write_bytes(photo)
    (around / "root-too").mkdir()
    (around / "root-too" / "secret.jpg").write_bytes(photo)
    (root / "escape.jpg").symlink_to(around / "secret.jpg")
    (root / "up").symlink_to(around)
    (root / "alias.jpg").symlink_to(root / "deeper" / "cat.jpg")
    (root / "relative.jpg").symlink_to("deeper/../cat.jpg")
    (root / "loop").symlink_to("loop")
    (root / "device").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe")
    env = {"API_KEY": KEY, "OSAMD_IMAGE_ROOT": str(root)}
    with run_server(cache=around, env=env) as running:
        yield running


def test_image_path_is_refused_by_default(client: httpx2.Client) -> None:
    """In production no file of the server is read, and the message names the setting."""
    problem = refusal(client.post(GENERATE, json={"image_path": __file__}))

    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_request", "image_path")
    assert "OSAMD_IMAGE_ROOT" in problem["detail"]


@pytest.mark.parametrize("path", ["cat.jpg", "deeper/cat.jpg", "./deeper//./cat.jpg", "alias.jpg", "relative.jpg"])
def test_image_path_below_the_root_is_read(rooted: RunningServer, clicked: dict[str, Any], path: str) -> None:
    """Files below the folder are read, links inside it too."""
    with rooted.client() as client:
        response = client.post(GENERATE, json={"image_path": path, "prompt": click(CLICK)})

    assert response.status_code == 200, response.text
    assert np.array_equal(only_mask(clicked), only_mask(response.json()))


@pytest.mark.parametrize(
    "path",
    [
        "escape.jpg",
        "up/secret.jpg",
        "up/missing.jpg",
        "up/root/cat.jpg",
        "loop",
        "loop/cat.jpg",
        "pipe",
        "device",
        "cat.jpg/cat.jpg",
        "missing.jpg",
        "deeper",
        "",
        ".",
        "cat.jpg\0.png",
        "x" * 4096,
        "a/" * 2048,
        "~/secret.jpg",
    ],
)
def test_image_path_outside_the_root_is_not_told_from_a_missing_one(rooted: RunningServer, path: str) -> None:
    """What lies outside the folder is refused with the words for a file that does not exist."""
    with rooted.client() as client:
        problem = refusal(client.post(GENERATE, json={"image_path": path}))

    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_request", "image_path")
    assert problem["detail"] == "no such file in the server's image folder"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "deeper/../../secret.jpg",
        "deeper/../cat.jpg",
        "../root-too/secret.jpg",
        "/etc/hostname",
        "/etc/missing",
        "//etc/hostname",
    ],
)
def test_image_path_that_leads_out_is_refused_by_its_letters(rooted: RunningServer, path: str) -> None:
    """Whether there is such a file makes no difference."""
    with rooted.client() as client:
        problem = refusal(client.post(GENERATE, json={"image_path": path}))

    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_request", "image_path")
    assert problem["detail"] == "expected a path inside the server's image folder, without '..'"


@pytest.mark.parametrize("path", ["x" * 5000, "deeper/" * 9_000])
def test_image_path_has_a_greatest_length(rooted: RunningServer, path: str) -> None:
    """As paths of files have."""
    with rooted.client() as client:
        problem = refusal(client.post(GENERATE, json={"image_path": path}))

    assert (problem["status"], problem["field"]) == (422, "image_path")
    assert problem["detail"] == "the path has more than 4,096 characters"


def test_absolute_image_path_below_the_root_is_read(rooted: RunningServer) -> None:
    """An absolute path is fine when it leads below the folder."""
    with rooted.client() as client:
        response = client.post(GENERATE, json={"image_path": str(rooted.log.parent / "root" / "cat.jpg")})

    assert response.status_code == 200, response.text


def test_empty_file_is_no_image(rooted: RunningServer) -> None:
    """An empty file is an image problem."""
    with rooted.client() as client:
        problem = refusal(client.post(GENERATE, json={"image_path": "empty.jpg"}))

    assert (problem["status"], problem["code"], problem["field"]) == (422, "invalid_image", "image_path")


def test_image_path_in_development_is_the_working_directory(tmp_path: Path, photo: bytes) -> None:
    """In development on loopback, ``image_path`` is below where the server was started."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "cat.jpg").write_bytes(photo)
    (tmp_path / "secret.jpg").write_bytes(photo)
    with (
        run_server(cache=tmp_path, env={"APP_ENV": "development"}, cwd=tmp_path / "here") as running,
        running.client() as client,
    ):
        inside = client.post(GENERATE, json={"image_path": "cat.jpg"})
        outside = client.post(GENERATE, json={"image_path": "../secret.jpg"})

    assert (inside.status_code, outside.status_code) == (200, 422)


def test_image_path_in_development_beyond_loopback_is_refused(tmp_path: Path, photo: bytes) -> None:
    """A development server that listens on all addresses reads no files."""
    (tmp_path / "cat.jpg").write_bytes(photo)
    env = {"APP_ENV": "development", "OSAMD_HOST": "0.0.0.0", "OSAMD_PRELOAD": "none"}  # noqa: S104 - that is the point
    with run_server(cache=tmp_path, env=env, cwd=tmp_path) as running, running.client() as client:
        problem = refusal(client.post(GENERATE, json={"image_path": "cat.jpg"}))

    assert "OSAMD_IMAGE_ROOT" in problem["detail"]
