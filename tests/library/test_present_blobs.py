from pathlib import Path

import osam.apis
import pytest

from osamd.errors import ModelUnavailableError
from osamd.library.catalog import Blob, Model, load_catalog
from osamd.library.store import Store

CATALOG = load_catalog()


def place(path: Path) -> None:
    """A file where a blob belongs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"blob")


@pytest.mark.parametrize("kind", osam.apis.registered_model_types, ids=lambda kind: kind.name)
def test_blobs_lie_where_osam_puts_them(
    kind: type[osam.types.Model], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What ``osam pull`` has fetched is found, and nothing is fetched twice."""
    # The real weights are not here; that they are verified is in test_store.py.
    monkeypatch.setattr("osamd.library.store.is_intact", lambda *_: True)
    monkeypatch.setenv("HOME", str(tmp_path))
    theirs = {}
    for role, blob in kind._blobs.items():
        for _, path in blob._files:
            place(Path(path))
        theirs[role] = Path(blob.path)

    assert theirs == Store(tmp_path / ".cache" / "osam").paths(CATALOG.resolve(kind.name))


def test_a_missing_blob_is_named_by_its_digest(tmp_path: Path) -> None:
    """The caller learns which blob is missing, and no path of this machine; another try may succeed later."""
    model = CATALOG.resolve("sam2:tiny")
    place(tmp_path / "models" / "blobs" / f"sha256-{model.blobs['encoder'].sha256}")

    with pytest.raises(ModelUnavailableError) as caught:
        Store(tmp_path).paths(model)

    error = caught.value
    assert (503, "model_unavailable", "model") == (error.status, error.code, error.field)
    assert model.blobs["decoder"].sha256 in error.public_message
    assert "sam2:tiny" in error.public_message
    assert str(tmp_path) not in error.public_message
    assert error.retry_after_s is not None


def test_a_blob_without_its_attachment_is_not_there(tmp_path: Path) -> None:
    """A graph whose weights have not arrived yet would only fail later and worse."""
    model = CATALOG.resolve("sam3")
    for blob in model.blobs.values():
        folder = tmp_path / "models" / "blobs"
        here = folder / f"sha256-{blob.sha256}"
        place(here / blob.url.rsplit("/", 1)[-1] if blob.attachments else here)

    with pytest.raises(ModelUnavailableError, match=model.blobs["image_encoder"].sha256):
        Store(tmp_path).paths(model)


def test_folder_is_not_a_blob(tmp_path: Path) -> None:
    """Something else under the blob's name does not count as the blob."""
    blob = Blob("https://example.org/a.onnx", "1" * 64)
    (tmp_path / "models" / "blobs" / f"sha256-{blob.sha256}").mkdir(parents=True)

    with pytest.raises(ModelUnavailableError):
        Store(tmp_path).paths(Model(name="a:latest", family="sam", blobs={"encoder": blob}))


def test_the_built_in_model_needs_no_cache(tmp_path: Path) -> None:
    """Its files come with the package, and looking for them makes no folder."""
    cache = tmp_path / "cache"

    for path in Store(cache).paths(CATALOG.resolve("builtin")).values():
        assert path.is_file()

    assert not cache.exists()
