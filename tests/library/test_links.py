"""Symbolic links inside the cache: shared caches may have them, and deleting never follows them out."""

from pathlib import Path

import pytest
from blob_server import BlobServer
from pulling import CONTENT, IMPATIENT, OTHER, blob_path, digest, model_of, partial_path, with_data

from osamd.engine.embedding_files import EmbeddingFiles, KeptEmbedding
from osamd.errors import StorageError
from osamd.library.store import Store
from osamd.types import Embedding


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the cache."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def test_linked_blobs_are_used_and_only_the_link_is_removed(blobs: BlobServer, tmp_path: Path, outside: Path) -> None:
    """A blob may be a link, as in a cache that is shared with osam; removing the model leaves what it leads to."""
    cache, model = tmp_path / "cache", model_of(blobs.put("/e", CONTENT))
    (outside / "e").write_bytes(CONTENT)
    blob_path(cache).parent.mkdir(parents=True)
    blob_path(cache).symlink_to(outside / "e")
    store = Store(cache, patience=IMPATIENT)
    assert {"encoder": blob_path(cache)} == store.paths(model)
    assert 0 == store.remove(model, catalog=[])
    assert not blob_path(cache).is_symlink()
    assert CONTENT == (outside / "e").read_bytes()


def test_damage_behind_a_link_is_repaired_in_the_cache(blobs: BlobServer, tmp_path: Path, outside: Path) -> None:
    """A pull replaces the link by a good folder, and neither deletes nor writes anything where the link led."""
    cache, model = tmp_path / "cache", with_data(blobs)
    place = blob_path(cache, b"graph")
    for name, content in (("graph.onnx", OTHER), ("graph.onnx.data", CONTENT)):
        (outside / name).write_bytes(content)
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    Store(cache, patience=IMPATIENT).pull(model)
    assert not place.is_symlink()
    assert (b"graph", CONTENT) == ((place / "graph.onnx").read_bytes(), (place / "graph.onnx.data").read_bytes())
    assert (OTHER, CONTENT) == ((outside / "graph.onnx").read_bytes(), (outside / "graph.onnx.data").read_bytes())


def test_dangling_link_is_replaced(blobs: BlobServer, tmp_path: Path) -> None:
    """A folder blob whose link is broken is downloaded into the cache."""
    model = with_data(blobs)
    place = blob_path(tmp_path, b"graph")
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "gone")
    Store(tmp_path, patience=IMPATIENT).pull(model)
    assert CONTENT == (place / "graph.onnx.data").read_bytes()


@pytest.mark.parametrize("kind", ["partial", "lock"])
def test_working_files_are_not_opened_through_links(
    blobs: BlobServer, tmp_path: Path, outside: Path, kind: str
) -> None:
    """What a pull writes to is never a link: nothing outside the cache is truncated or appended to."""
    cache, target = tmp_path / "cache", outside / "mine"
    target.write_bytes(b"keep")
    link = partial_path(cache) if kind == "partial" else cache / "osamd" / "locks" / f"{digest(CONTENT)}.lock"
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with pytest.raises(StorageError):
        Store(cache, patience=IMPATIENT).pull(model_of(blobs.put("/e", CONTENT)))
    assert b"keep" == target.read_bytes()


def test_evicting_embedding_files_never_leaves_the_folder(tmp_path: Path, outside: Path) -> None:
    """Arrays of others, behind a link or under another name, are neither counted nor deleted."""
    folder = tmp_path / "embeddings"
    (folder / "own").mkdir(parents=True)
    (folder / "linked").symlink_to(outside)
    others = [outside / f"img_{'0' * 32}.npz", folder / "own" / "data.npz"]
    for other in others:
        other.write_bytes(b"x" * 1000)
    files = EmbeddingFiles(folder, capacity_bytes=10_000, ttl_s=0.0001)
    kept = KeptEmbedding(Embedding(height=1, width=1, features={}), model="m", digest="d")
    for number in range(3):
        files.put(f"img_{number:032x}", kept, owner="me")
    assert all(other.exists() for other in others)
