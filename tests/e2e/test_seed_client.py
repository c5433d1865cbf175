"""The seed document's client, as it stands there, against our server. Only the values it asks for are put in."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import KEY, RunningServer, clean_environment, run_server
from waiting import WAIT_S

# The last code block of the seed document, to the letter.
SEED_CLIENT = """\
import requests

api_key = "YOUR_API_KEY" # The key you set via fly secrets or .env
app_url = "https://your-osam-app-name.fly.dev" # Your app's URL

headers = {
    "X-API-Key": api_key,
    "Content-Type": "application/json"
}

data = {
    "model_id": "sam_vit_b",
    "image_path": "path/to/your/image.jpg", # Or provide image_base64
    "prompt": {
        "points": [[100, 100]], # Example prompt
        "labels": [1]
    }
}

response = requests.post(f"{app_url}/api/generate", headers=headers, json=data)

if response.status_code == 200:
    result = response.json()
    print("Success:", result)
elif response.status_code == 403:
    print("Authentication Error:", response.json())
elif response.status_code == 500:
    print("Server Error (check API Key configuration?):", response.text)
else:
    print("Error:", response.status_code, response.text)
"""
IMAGE_LINE = '"image_path": "path/to/your/image.jpg", # Or provide image_base64'


def run_client(
    running: RunningServer, *, key: str = KEY, model_id: str = "sam_vit_b", image_line: str = '"image_path": "cat.jpg",'
) -> str:
    """What the client prints with its own values put in."""
    script = SEED_CLIENT
    for pasted, own in [
        ("YOUR_API_KEY", key),
        ("https://your-osam-app-name.fly.dev", running.url),
        ("sam_vit_b", model_id),
        (IMAGE_LINE, image_line),
    ]:
        assert script.count(pasted) == 1
        script = script.replace(pasted, own)
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    return ended.stdout


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory, photo: bytes) -> Iterator[RunningServer]:
    """A development server with a key, started in a folder that has the photo."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "cat.jpg").write_bytes(photo)
    env = {"API_KEY": KEY, "APP_ENV": "development", "OSAMD_PULL": "never"}
    with run_server(cache=tmp_path_factory.mktemp("cache"), env=env, cwd=folder) as running:
        yield running


def test_succeeds_with_the_builtin_model(development: RunningServer) -> None:
    """With the model's name changed, and the path of a photo, it prints Success and the annotations."""
    printed = run_client(development, model_id="builtin")

    assert printed.startswith("Success: {'model': 'builtin:latest'")
    assert "'annotations': [{'bounding_box': {'xmin':" in printed


def test_succeeds_with_image_base64(development: RunningServer, photo: bytes, tmp_path: Path) -> None:
    """The other way its comment names, ``image_base64``, works too."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    line = f'"image_base64": __import__("base64").b64encode(open({str(path)!r}, "rb").read()).decode(),'

    assert run_client(development, model_id="builtin", image_line=line).startswith("Success:")


def test_tells_a_missing_model(development: RunningServer) -> None:
    """With the model as pasted it prints the error, which names the missing blob."""
    printed = run_client(development)

    assert printed.startswith("Error: 503 ")
    assert "model_unavailable" in printed
    assert "sha256-3346b9cc551c9902" in printed


def test_tells_a_wrong_key(development: RunningServer) -> None:
    """With a wrong key it prints the branch for 403, whose body is JSON."""
    printed = run_client(development, key="wrong", model_id="builtin")

    assert printed.startswith("Authentication Error: {")
    assert "access_denied" in printed


def test_tells_a_missing_image(development: RunningServer) -> None:
    """With the path as pasted it prints what is wrong with it."""
    printed = run_client(development, model_id="builtin", image_line=IMAGE_LINE)

    assert printed.startswith("Error: 422 ")
    assert "image_path" in printed


def test_tells_a_server_without_key(tmp_path: Path) -> None:
    """When the operator set no key, it prints the branch for 500, which names the variable."""
    with run_server(cache=tmp_path, env={"OSAMD_PRELOAD": "none"}) as running:
        printed = run_client(running)

    assert printed.startswith("Server Error (check API Key configuration?): ")
    assert "API_KEY" in printed
