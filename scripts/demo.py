"""``make demo``: a server, a photo and a prompt, and the mask that comes back. Offline, on the built-in model.

Writes demo/mask.png, demo/overlay.png and demo/reply.json; exits non-zero when anything failed.
"""

import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from send_request_example import save  # noqa: E402

from osamd.client import Client, Segmentation  # noqa: E402 - the example beside it needs the path first
from osamd.errors import OsamdError  # noqa: E402

PHOTO = ROOT / "examples" / "cat.jpg"
OUTPUT = ROOT / "demo"
FIRST_CLICK = (225.0, 150.0)
NEXT_CLICK = (315.0, 130.0)
STOP_S = 40.0


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(port: int, key: str, log: Path) -> "subprocess.Popen[bytes]":
    """The server in a separate process, with the key in its environment."""
    command = [sys.executable, "-m", "osamd", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        return subprocess.Popen(command, env=server_environment(key), stdout=output, stderr=subprocess.STDOUT)


def server_environment(key: str) -> dict[str, str]:
    """This environment with the key, and without settings from the shell."""
    import os  # noqa: PLC0415 - only here

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OSAMD_", "APP_ENV", "PORT"))}
    return kept | {"API_KEY": key}


def run(url: str, key: str) -> tuple[Segmentation, float, Segmentation, float]:
    """The first request on the photo, and the next click by its handle; with their seconds as the client saw them."""
    with Client(url, api_key=key) as client:
        client.wait_until_ready()
        start = time.perf_counter()
        first = client.segment(PHOTO, points=[FIRST_CLICK])
        first_s = time.perf_counter() - start
        start = time.perf_counter()
        found = client.segment(image_id=first.image_id, points=[FIRST_CLICK, NEXT_CLICK])
        next_s = time.perf_counter() - start
    return first, first_s, found, next_s


def main() -> int:
    """Run the demo."""
    port, key = free_port(), secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        server = start_server(port, key, log)
        try:
            _, first_s, found, next_s = run(f"http://127.0.0.1:{port}", key)
            if not found.annotations:
                print("the server found nothing", file=sys.stderr)
                return 1
            written = save(found, PHOTO, OUTPUT)
        except (OsamdError, OSError) as error:
            print(f"the demo failed: {error}\n{log.read_text('utf-8', 'replace')}", file=sys.stderr)
            return 1
        finally:
            server.terminate()
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    xmin, ymin, xmax, ymax = found.annotations[0].box
    print(f"model         {found.model}")
    print(f"clicks        {FIRST_CLICK}, then {NEXT_CLICK} on {PHOTO.relative_to(ROOT)}")
    print(f"bounding box  xmin {xmin}, ymin {ymin}, xmax {xmax}, ymax {ymax}")
    print(f"first request {first_s * 1e3:.0f} ms   next click {next_s * 1e3:.0f} ms")
    for path in written:
        print(f"wrote         {path.relative_to(ROOT)}")
    print("To start a server (with your API_KEY in .env, see .env.example):  .venv/bin/osamd serve --env-file .env")
    return 0


if __name__ == "__main__":
    sys.exit(main())
