"""Models for real servers: hand-made graphs as rows of a user's catalogue, on this disk or on a web server."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from blob_server import Answer, BlobServer, Served, serve_blobs
from graphs import write_family
from serving import KEY, RunningServer, run_server

# A row of each family under a name that osam has too.
LOCAL = {
    "efficientsam:10m": "efficientsam",
    "sam:300m": "sam",
    "sam2:tiny": "sam2",
    "sam3:latest": "sam3",
    "yoloworld:latest": "yoloworld",
}


@dataclass(frozen=True)
class WebModel:
    """A row whose files are on the web server, and are like no other row's.

    Attributes:
        name: its full name.
        served: what the web server answers, by role.
        contents: its files by role.
    """

    name: str
    served: Mapping[str, Served]
    contents: Mapping[str, bytes]

    def answer(self, role: str, *script: Answer) -> None:
        """Have the next requests for a file answered in other ways."""
        self.served[role].script.extend(script)

    def places(self, cache: Path) -> list[Path]:
        """Where its files lie once they are here."""
        digests = [hashlib.sha256(content).hexdigest() for content in self.contents.values()]
        return [cache / "models" / "blobs" / f"sha256-{digest}" for digest in digests]


@dataclass
class Shelf:
    """Collects rows; ``write`` makes the catalogue."""

    folder: Path
    web: BlobServer
    rows: list[str] = field(default_factory=list)

    def add_local(self, name: str, family: str, **texts: str) -> dict[str, Path]:
        """A row of ``file://`` blobs; their paths by role."""
        folder = self.folder / name.replace(":", "-")
        folder.mkdir()
        paths = write_family(family, folder)
        self._add(name, family, {role: {"url": path.as_uri()} for role, path in paths.items()}, texts)
        return paths

    def add_chain(self, name: str, *, detector: str, segmenter: str) -> None:
        """A row of two other models."""
        self._add(name, "chain", {}, {"detector": detector, "segmenter": segmenter})

    def add_web(self, name: str, family: str = "efficientsam", *, shares: WebModel | None = None) -> WebModel:
        """A row of blobs on the web server; its encoder is that of another row where ``shares`` is given."""
        contents = {} if shares is None else {"encoder": shares.contents["encoder"]}
        served = {} if shares is None else {"encoder": shares.served["encoder"]}
        folder = self.folder / name.replace(":", "-")
        folder.mkdir()
        blobs = {}
        for role, path in write_family(family, folder).items():
            graph = onnx.load(path)
            graph.doc_string = name
            content = contents.setdefault(role, graph.SerializeToString())
            digest = hashlib.sha256(content).hexdigest()
            url = self.web.url + f"/{digest}"
            if role not in served:
                self.web.put(f"/{digest}", content)
                served[role] = self.web.files[f"/{digest}"]
            blobs[role] = {"url": url, "sha256": digest}
        texts = {"license": "MIT", "license_url": "https://example.org/licence"}
        self._add(name, family, blobs, texts)
        return WebModel(name if ":" in name else f"{name}:latest", served, contents)

    def write(self) -> Path:
        """The catalogue's file."""
        file = self.folder / "models.toml"
        file.write_text("\n".join(self.rows), "utf-8")
        return file

    def _add(self, name: str, family: str, blobs: Mapping[str, Mapping[str, str]], texts: Mapping[str, str]) -> None:
        fields = {"name": name, "family": family, **texts}
        lines = ["[[model]]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())]
        for role, blob in blobs.items():
            lines += [f"[model.blobs.{role}]", *(f"{key} = {json.dumps(value)}" for key, value in blob.items())]
        self.rows.append("\n".join(lines) + "\n")


@dataclass
class Library:
    """A server, its catalogue's models and where they come from."""

    server: RunningServer
    cache: Path
    web: BlobServer
    paths: Mapping[str, Mapping[str, Path]]
    fresh: Iterator[WebModel]
    named: Mapping[str, WebModel]


@contextlib.contextmanager
def run_library(
    folder: Path,
    *,
    fresh: int = 0,
    env: Mapping[str, str] | None = None,
    command: Sequence[str] = (sys.executable, "-m", "osamd", "serve"),
) -> Iterator[Library]:
    """Run a server whose catalogue has a local model of each family, and models that can be pulled.

    Args:
        folder: for everything.
        fresh: how many models no test has touched yet.
        env: more of its environment.
        command: how the server is started.
    """
    (folder / "rows").mkdir()
    cache = folder / "cache"
    cache.mkdir()
    with serve_blobs() as web:
        shelf = Shelf(folder / "rows", web)
        paths = {name: shelf.add_local(name, family) for name, family in LOCAL.items()}
        shelf.add_chain("words", detector="yoloworld", segmenter="sam2:tiny")
        shelf.add_local("freie", "efficientsam", license="Lizenz für alle, frei")
        first = shelf.add_web("first")
        named = {"sam:100m": shelf.add_web("sam:100m", "sam"), "first": first}
        named["twin"] = shelf.add_web("twin", shares=first)
        models = iter([shelf.add_web(f"fresh{number}") for number in range(fresh)])
        catalog = {"API_KEY": KEY, "OSAMD_CATALOG": str(shelf.write()), "OSAMD_THREADS": "1", "OSAMD_PULL": "auto"}
        catalog["OSAMD_CVAT_TEXTS"] = "cat, dog"
        with run_server(cache=cache, env=catalog | dict(env or {}), command=command) as running:
            yield Library(running, cache, web, paths, models, named)
