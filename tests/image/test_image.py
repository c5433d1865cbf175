"""The image, run as users and hosts run it. Opt-in: ``make image-test`` builds it first."""

import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asking import CLICK, GENERATE, ask, click
from blob_server import BlobServer, serve_blobs
from containers import HARDENED, IMAGE, UID, Container, image_config, mount, run_container, run_once, tool
from pictures import encoded
from PIL import Image
from serving import KEY
from shelf import Shelf, WebModel

from osamd import __version__

pytestmark = pytest.mark.image
ROOT = Path(__file__).resolve().parents[2]
GPU_IMAGE = "localhost/osamd:gpu"
EXAMPLE_KEY = "your_local_key_here"
# Above the base image. ONNX Runtime, OpenCV and NumPy are most of it.
MOST_MEGABYTES = 350


@pytest.fixture(scope="module")
def hardened() -> Iterator[Container]:
    """A server on a read-only root, without a capability, as uid 999, where no folder can be written."""
    with run_container(*HARDENED, "--user", f"{UID}:{UID}", *no_hidden_tmpfs(), env={"API_KEY": KEY}) as running:
        yield running


def no_hidden_tmpfs() -> tuple[str, ...]:
    """Podman mounts writable folders over a read-only root unless told; Docker does not."""
    return ("--read-only-tmpfs=false",) if is_podman() else ()


@contextmanager
def one_model(folder: Path, shared: Path) -> Iterator[tuple[BlobServer, WebModel, tuple[str, ...]]]:
    """A web server with the model ``mine``, and the flags that lend a container the catalogue that names it."""
    rows = shared.with_name(f"{shared.name}.toml")
    with serve_blobs() as web:
        shelf = Shelf(folder, web)
        model = shelf.add_web("mine")
        shutil.copy(shelf.write(), rows)
        rows.chmod(0o644)
        yield web, model, ("--volume", f"{rows}:/root/.config/osamd/models.toml:ro")
    rows.unlink()


def is_podman() -> bool:
    """Whether the containers' tool is podman."""
    return "podman" in tool("--version").stdout


def test_the_seeds_own_command(tmp_path: Path) -> None:
    """``cp .env.example .env; docker run --rm -p 11368:11368 --env-file ./.env my-osam-app`` serves behind that key."""
    shutil.copy(ROOT / ".env.example", tmp_path / ".env")
    with run_container("--env-file", str(tmp_path / ".env")) as running:
        assert (200, 403, 403) == (running.status(EXAMPLE_KEY), running.status("wrong"), running.status(None))


def test_development_without_a_key() -> None:
    """``-e APP_ENV=development`` without a key lets everybody in, and warns."""
    with run_container("-e", "APP_ENV=development") as running:
        assert 200 == running.status(None)
        assert re.search(r"WARNING .*API_KEY", running.log())


def test_production_without_a_key() -> None:
    """Without a key a production server answers 500 and names the variable."""
    with run_container() as running, running.client(None) as client:
        answer = client.get("/")
    assert 500 == answer.status_code
    assert "API_KEY" in answer.json()["detail"]


def test_hardened_server_segments(hardened: Container, photo: bytes) -> None:
    """Read-only, unprivileged and without capabilities it answers, a large upload by multipart too."""
    large = encoded(Image.effect_noise((3000, 3000), 60).convert("RGB"), "JPEG", quality=90)
    with hardened.client() as client:
        assert ask(client, photo, prompt=click(CLICK))["annotations"][0]["mask"]
        fields = {"point": "9,9", "mask_format": "none"}
        assert 200 == client.post(GENERATE, files={"image": large}, data=fields).status_code
        assert 403 == hardened.status("wrong")
    assert "telemetry" not in hardened.log().lower()


def test_healthcheck(hardened: Container) -> None:
    """The image's health check passes where the server answers, and fails where none does."""
    kind, *command = image_config()["Healthcheck"]["Test"]
    assert "CMD" == kind
    assert 0 == hardened.inside(*command).returncode
    assert run_once(*command).returncode != 0


def test_any_uid_only_executes(photo: bytes) -> None:
    """A host may run it as a uid that nobody knows, as OpenShift does."""
    flags = (*HARDENED, "--user", "1000650000:0", *no_hidden_tmpfs())
    with run_container(*flags, env={"API_KEY": KEY}) as running, running.client() as client:
        assert ask(client, photo)["annotations"]


def test_port_is_honoured() -> None:
    """A host that chooses the port by ``PORT`` gets it, from the server and from the health check."""
    with run_container(env={"API_KEY": KEY}, published=False) as running:
        assert 200 == running.status(KEY)
        assert 0 == running.inside("/venv/bin/python", "-I", "/app/healthcheck.py").returncode


def test_volume_outlives_the_server(tmp_path: Path, photo: bytes) -> None:
    """A volume of root's is handed to uid 999; what the first server pulls, the second one has: it asks nobody."""
    with mount() as cache, one_model(tmp_path, cache) as (web, model, rows):
        (cache / "of-root").write_text("")
        flags = (*rows, "--volume", f"{cache}:/root/.cache/osam")
        for asked in (2, 2):
            with run_container(*flags, env={"API_KEY": KEY}, published=False) as running, running.client() as client:
                assert ask(client, photo, model="mine")["annotations"]
                assert str(UID) == running.inside("stat", "-c", "%u", "/proc/1").stdout.strip()
                status = running.inside("cat", "/proc/1/status").stdout
                assert "CapEff:\t0000000000000000" in status
                assert "NoNewPrivs:\t1" in status
                assert 0 == running.stop()
            assert asked == len(web.asked)
        assert {UID} == {path.stat().st_uid for path in [cache, *cache.rglob("*")]}
        assert all(cache.joinpath(*place.parts[-3:]).is_file() for place in model.places(cache))


def test_new_volume_of_the_container_tool_can_be_written() -> None:
    """A named volume takes over the owner of the image's folder, so that uid 999 needs no root to hand it over."""
    name = f"osamd-test-{uuid.uuid4().hex}"
    flags = (*HARDENED, "--user", f"{UID}:{UID}", "--volume", f"{name}:/root/.cache/osam")
    try:
        written = run_once("sh", "-c", "touch /root/.cache/osam/here && osamd list", flags=flags)
        assert 0 == written.returncode, written.stderr
        assert "builtin" in written.stdout
    finally:
        tool("volume", "rm", "--force", name)


def test_weights_can_be_pulled_ahead(tmp_path: Path, photo: bytes) -> None:
    """The image's ``osamd pull`` fills a volume; a server over it needs no network for that model."""
    with mount() as cache, one_model(tmp_path, cache) as (_, _, rows):
        flags = (*rows, "--volume", f"{cache}:/root/.cache/osam")
        pulled = run_once("osamd", "pull", "mine", flags=(*flags, "--network", "host"))
        assert 0 == pulled.returncode, pulled.stderr
        with run_container(*flags, env={"API_KEY": KEY, "OSAMD_PULL": "never"}) as running, running.client() as client:
            assert ask(client, photo, model="mine")["annotations"]


def test_weights_can_be_baked_in(tmp_path: Path, photo: bytes) -> None:
    """``deploy/warmup/Dockerfile`` puts weights into an image, which pulls nothing and runs unprivileged."""
    if not is_podman():
        pytest.skip("only podman's build can be lent a catalogue")
    name = f"localhost/osamd-baked:{tmp_path.name}"
    with mount() as folder, one_model(tmp_path, folder) as (_, _, rows):
        file = str(ROOT / "deploy" / "warmup" / "Dockerfile")
        options = ("--build-arg", f"IMAGE={IMAGE}", "--build-arg", "MODELS=mine", "--tag", name, *rows)
        built = tool("build", "--file", file, "--network", "host", "--format", "docker", *options, str(tmp_path))
        assert 0 == built.returncode, built.stderr
        try:
            flags = (*HARDENED, "--user", f"{UID}:{UID}", *no_hidden_tmpfs(), *rows)
            with run_container(*flags, env={"API_KEY": KEY}, image=name) as running, running.client() as client:
                assert ask(client, photo, model="mine")["annotations"]
        finally:
            tool("rmi", "--force", name)


def test_slow_clients_are_left(hardened: Container) -> None:
    """Limits on connections hold under uvicorn's own command too: half a head is answered 408 when its time is up."""
    with run_container(env={"API_KEY": KEY, "OSAMD_HEAD_S": "0.5"}, published=False) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n")
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 408 ")
    with hardened.client() as client:
        assert "server" not in client.get("/health").headers


def test_sigterm_drains(photo: bytes) -> None:
    """A request that is half sent when the host stops the container is answered in full; the exit code is 0."""
    with run_container(env={"API_KEY": KEY}, published=False) as running:
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {GENERATE} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {KEY}\r\nContent-Length: {len(photo)}\r\n"
            connection.sendall(f"{head}\r\n".encode() + photo[:1000])
            assert 200 == running.status(KEY)
            codes: list[int] = []
            stopping = threading.Thread(target=lambda: codes.append(running.stop()))
            stopping.start()
            until = time.monotonic() + 20
            while not _refuses(host, int(port)) and time.monotonic() < until:
                time.sleep(0.02)
            connection.sendall(photo[1000:])
            answer = connection.makefile("rb").read()
        stopping.join()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"annotations"' in answer
    assert [0] == codes


def _refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return True
    return False


def test_gpu_is_not_claimed(photo: bytes) -> None:
    """In the CPU image ``OSAMD_DEVICE=cuda`` is never ready, and the doctor says which package is the wrong one."""
    with (
        run_container(env={"API_KEY": KEY, "OSAMD_DEVICE": "cuda"}, wait_for="/health") as running,
        running.client() as client,
    ):
        assert "model_load_failed" == client.post(GENERATE, content=photo).json()["code"]
        assert 503 == client.get("/ready").status_code
        assert "built without it" in running.log()
    ended = run_once("osamd", "doctor", "--device", "cuda")
    assert 1 == ended.returncode
    assert "onnxruntime-gpu" in ended.stdout


def test_gpu_image_without_a_gpu() -> None:
    """The GPU image holds the GPU's ONNX Runtime alone; where no GPU is, it is live, never ready, and says why."""
    if tool("image", "inspect", GPU_IMAGE).returncode != 0:
        pytest.skip("scripts/image-build gpu has not been run: it downloads 1.6 GB")
    with run_container(env={"API_KEY": KEY}, image=GPU_IMAGE, wait_for="/health") as running:
        with running.client() as client:
            answer = client.get("/api/tags")
            assert 200 == answer.status_code
            assert 503 == client.get("/ready").status_code
        report = running.inside("osamd", "doctor")
        packages = running.inside("sh", "-c", "cd /venv/lib/python3*/site-packages && ls -d onnxruntime*.dist-info")
    found = {line.split()[1]: line for line in report.stdout.splitlines()}
    if found["driver"].startswith("ok"):
        pytest.skip("this machine has a GPU")
    assert 1 == report.returncode
    assert "libcuda.so.1" in found["driver"]
    assert ["ok", "ok"] == [found[name].split()[0] for name in ("CUDA", "cuDNN")]
    (package,) = packages.stdout.split()
    assert package.startswith("onnxruntime_gpu-")


def test_nothing_else_is_inside() -> None:
    """The image holds the package as it is here, three files of ours, and no secret, test or tool to build with."""
    app = run_once("find", "/app", "-type", "f").stdout.split()
    assert {"/app/entrypoint", "/app/healthcheck.py", "/app/main.py"} == set(app)
    listed = run_once("sh", "-c", "cd /venv/lib/python3*/site-packages/osamd && find . -type f ! -name '*.pyc'").stdout
    package = ROOT / "src" / "osamd"
    here = {f"./{path.relative_to(package)}" for path in package.rglob("*") if path.is_file()}
    assert {path for path in here if "__pycache__" not in path} == set(listed.split())
    folders = "/app /root /venv /tools /build /layers"
    found = run_once("sh", "-c", f"find {folders} -name '.env*' -o -name '*.whl' -o -name tests; command -v uv")
    assert "" == found.stdout


def test_byte_code_is_there_and_never_checked() -> None:
    """Every module is compiled, in the form that no time stamp can make stale."""
    code = (
        "import pathlib, sys; site = pathlib.Path(sys.prefix).glob('lib/*/site-packages/**/*.py');"
        "caches = [p.parent / '__pycache__' / f'{p.stem}.cpython-{sys.version_info[0]}{sys.version_info[1]}.pyc'"
        " for p in site if '-' not in p.parts[-2]];"
        "print(len(caches), {p.read_bytes()[4] for p in caches if p.exists()},"
        " sum(not p.exists() for p in caches))"
    )
    count, kinds, missing = run_once("python", "-c", code).stdout.rsplit(maxsplit=2)
    assert int(count) > 500
    assert ("{1}", "0") == (kinds, missing)


def test_labels_and_version() -> None:
    """The image's labels tell what it is; the package in it has the version of the source."""
    labels = image_config()["Labels"]
    assert "osamd" == labels["org.opencontainers.image.title"]
    assert "Apache-2.0" == labels["org.opencontainers.image.licenses"]
    assert f"osamd {__version__}" == run_once("osamd", "--version").stdout.strip()
    assert labels["org.opencontainers.image.version"] in {"", __version__}


def test_size() -> None:
    """What osamd adds to the base image is no larger than it was; a new dependency shows here."""
    ended = run_once("sh", "-c", "du -sm /venv /app | awk '{ sum += $1 } END { print sum }'")
    assert int(ended.stdout) < MOST_MEGABYTES
