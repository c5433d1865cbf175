import hashlib
from dataclasses import replace
from pathlib import Path

import osam.apis
import pytest

from osamd.errors import UnknownModelError
from osamd.library.catalog import DEFAULT_MODEL, Attachment, Blob, Catalog, Model, load_catalog
from osamd.library.store import Store

CATALOG = load_catalog()
OSAM_TYPES = {kind.name: kind for kind in osam.apis.registered_model_types}
ROW = Model(name="family:tag", family="family", blobs={"encoder": Blob("u", "1" * 64), "decoder": Blob("v", "2" * 64)})


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("sam", "sam:latest"),
        ("sam:latest", "sam:latest"),
        ("sam2", "sam2:latest"),
        ("sam2:tiny", "sam2:tiny"),
        ("builtin", "builtin:latest"),
        ("sam_vit_b", "sam:100m"),
        ("sam_vit_l", "sam:300m"),
        ("sam_vit_h", "sam:latest"),
    ],
)
def test_names_and_aliases(name: str, full: str) -> None:
    """A name without a tag means the latest; the seed document's names mean osam's."""
    assert full == CATALOG.resolve(name).name


@pytest.mark.parametrize(
    "name", ["", ":", "sam:", ":latest", "sam:huge", "SAM", "sam_vit_b:latest", "../sam", "sam:100m "]
)
def test_an_unknown_name_is_refused_with_what_there_is(name: str) -> None:
    """The caller's mistake, not the server's: 404, the field, and the names to choose from."""
    with pytest.raises(UnknownModelError, match=r"builtin:latest.*sam2:tiny") as caught:
        CATALOG.resolve(name)

    assert (404, "model") == (caught.value.status, caught.value.field)


def test_long_unknown_name_is_truncated_in_the_error() -> None:
    """A megabyte sent as a name does not come back, nor go into the log."""
    with pytest.raises(UnknownModelError) as caught:
        CATALOG.resolve("x" * 1_000_000)

    assert len(str(caught.value)) < 1000


def test_the_default_model_is_in_the_catalogue() -> None:
    """A request that names no model finds one."""
    assert DEFAULT_MODEL == CATALOG.resolve(DEFAULT_MODEL).name


def test_the_catalogue_has_osams_models_and_the_built_in_one() -> None:
    """All eleven of osam 0.8.1, and ours."""
    assert 11 == len(OSAM_TYPES)
    assert {*OSAM_TYPES, "builtin:latest"} == {model.name for model in CATALOG}


@pytest.mark.parametrize("name", list(OSAM_TYPES))
def test_rows_match_osams(name: str) -> None:
    """Addresses, digests, attachments and licences equal those of osam's classes."""
    kind, row = OSAM_TYPES[name], CATALOG.resolve(name)

    theirs = {
        role: (blob.url, blob.hash, [(one.url, one.hash) for one in blob.attachments])
        for role, blob in kind._blobs.items()
    }
    ours = {
        role: (blob.url, f"sha256:{blob.sha256}", [(one.url, f"sha256:{one.sha256}") for one in blob.attachments])
        for role, blob in row.blobs.items()
    }
    assert theirs == ours
    metadata = kind.metadata
    assert (metadata.license_spdx or metadata.license_name) == row.license
    assert (metadata.license_url, metadata.source_url) == (row.license_url, row.source_url)


def test_the_packaged_weights_are_the_catalogues(tmp_path: Path) -> None:
    """The built-in model's files have the digests that the row states."""
    row = CATALOG.resolve("builtin")

    paths = Store(tmp_path).paths(row)

    assert {"encoder", "decoder"} == set(paths)
    for role, path in paths.items():
        assert row.blobs[role].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_digest_is_a_sha256() -> None:
    """A digest that is cut short would make a file that can never be verified."""
    for model in CATALOG:
        for blob in model.blobs.values():
            for digest in (blob.sha256, *(attachment.sha256 for attachment in blob.attachments)):
                assert 64 == len(bytes.fromhex(digest)) * 2 == len(digest)


def test_models_differ_in_their_digest() -> None:
    """No two rows share embeddings."""
    digests = [model.digest for model in CATALOG]

    assert len(digests) == len(set(digests))


@pytest.mark.parametrize(
    "blobs",
    [
        {**ROW.blobs, "encoder": Blob("u", "3" * 64)},
        {"encoder": ROW.blobs["decoder"], "decoder": ROW.blobs["encoder"]},
        {**ROW.blobs, "encoder": Blob("u", "1" * 64, (Attachment("w", "4" * 64),))},
        {"image_encoder": ROW.blobs["encoder"], "decoder": ROW.blobs["decoder"]},
        {"encoder": ROW.blobs["encoder"]},
    ],
)
def test_digest_depends_on_the_content(blobs: dict[str, Blob]) -> None:
    """Another file in any role, beside one, or in another's place is another model."""
    assert ROW.digest != replace(ROW, blobs=blobs).digest


def test_digest_depends_only_on_the_content() -> None:
    """A row that is renamed, moved or listed in another order keeps its digest."""
    blobs = {role: replace(blob, url="elsewhere") for role, blob in list(ROW.blobs.items())[::-1]}

    assert ROW.digest == replace(ROW, name="other:tag", license="MIT", blobs=blobs).digest


def test_an_alias_is_exact() -> None:
    """An alias has no tag of its own, and wins over the rule of the latest."""
    rows = [replace(ROW, name="a:latest"), replace(ROW, name="b:latest", aliases=("a", "c:1"))]

    assert ["b:latest", "a:latest", "b:latest"] == [
        Catalog(rows).resolve(name).name for name in ("a", "a:latest", "c:1")
    ]
