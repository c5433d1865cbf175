"""Chains in the catalogue: names, rows, files and what may be pulled."""

from pathlib import Path
from typing import Any

import pytest

from osamd.errors import InvalidRequestError, SettingsError
from osamd.library.catalog import Catalog, load_catalog
from osamd.library.library import open_library
from osamd.library.store import Store
from osamd.settings import Settings, load_settings

PLAIN = '[[model]]\nname = "mine"\nfamily = "sam"\nlicense = "MIT"\n' + "".join(
    f'[model.blobs.{role}]\nurl = "file:///{role}"\n' for role in ("encoder", "decoder")
)


def row(name: str = "words", *, detector: str = "yoloworld", segmenter: str = "mine", more: str = "") -> str:
    """A row of the family chain."""
    return f'[[model]]\nname = "{name}"\nfamily = "chain"\ndetector = "{detector}"\nsegmenter = "{segmenter}"\n{more}\n'


def catalog(folder: Path, text: str) -> Catalog:
    """The shipped catalogue with these rows."""
    file = folder / "models.toml"
    file.write_text(text, "utf-8")
    return load_catalog(file)


def test_row_of_a_chain(tmp_path: Path) -> None:
    """It has the files of both parts, whatever their order in the catalogue, and what both can do."""
    found = catalog(tmp_path, row(more='aliases = ["w"]') + PLAIN)

    assert () == found.problems
    chain = found.resolve("w")
    assert ("words:latest", "chain") == (chain.name, chain.family)
    assert ["yoloworld:latest", "mine:latest"] == [part.name for part in chain.members]
    assert {"detector.textual", "detector.yolo", "segmenter.encoder", "segmenter.decoder"} == set(chain.blobs)
    assert "GPL-3.0-only AND MIT" == chain.license
    assert "points, one box, up to 64 texts, a mask to refine" == chain.capabilities.sentence()


def test_name_of_two_models(tmp_path: Path) -> None:
    """Names and aliases, with and without tags, give one full name; the licence of both is given once."""
    found = catalog(tmp_path, PLAIN)

    names = {found.resolve(name).name for name in ("yoloworld+sam_vit_b", "yoloworld:latest+sam:100m")}
    assert {"yoloworld:latest+sam:100m"} == names
    assert found.resolve("yoloworld+sam:100m").digest != found.resolve("yoloworld+sam:300m").digest


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            row(detector="nothing"),
            "row 1 (words:latest), detector must name a model of the catalogue, which nothing is",
        ),
        (row(segmenter="yoloworld"), "row 1 (words:latest), segmenter of a chain must turn a box into a mask"),
        (row(detector="sam2", segmenter="sam"), "row 1 (words:latest), detector of a chain must turn words into boxes"),
        (row(segmenter="nested") + row("nested", segmenter="sam"), "row 1 (words:latest), segmenter must name a model"),
        (row("mine", segmenter="sam") + PLAIN, "row 1 (mine:latest), name is already used by another model"),
        (row("sam2:tiny", segmenter="sam2:tiny"), "row 1 (sam2:tiny), name is already used by another model"),
        (row(segmenter="a+b"), "row 1 (words), segmenter must be a name such as"),
        (row().replace('detector = "yoloworld"', ""), "row 1 (words), detector is missing"),
        (row(more='[model.blobs.x]\nurl = "file:///x"'), "row 1 (words), blobs must be left out"),
        (PLAIN.replace('license = "MIT"', 'detector = "sam"'), "row 1 (mine), detector is only for the family chain"),
        (row("builtin"), "row 1 (builtin:latest), name is already used by another model"),
    ],
)
def test_row_that_makes_no_sense_is_reported(tmp_path: Path, text: str, problem: str) -> None:
    """The field at fault is named, and the other rows are loaded."""
    found = catalog(tmp_path, text)

    assert any(problem in str(one) for one in found.problems), found.problems
    assert not found.resolve("builtin").parts


def settings(folder: Path, **flags: Any) -> Settings:
    """Settings with a cache of their own."""
    return load_settings(cache=folder, catalog=folder / "models.toml", **flags)


def test_allowing_a_chain_allows_its_parts(tmp_path: Path) -> None:
    """``OSAMD_MODELS`` may name a chain; chains with another part may not be pulled."""
    catalog(tmp_path, row() + PLAIN)
    library = open_library(settings(tmp_path, pull="auto", models=("words",)))

    may = {
        name: library.pulls.may_pull(library.resolve(name))
        for name in ("words", "yoloworld", "yoloworld+mine", "yoloworld+sam", "sam")
    }
    assert {"words": True, "yoloworld": True, "yoloworld+mine": True, "yoloworld+sam": False, "sam": False} == may
    with pytest.raises(SettingsError, match="OSAMD_MODELS: the detector"):
        open_library(settings(tmp_path, models=("sam+sam",)))


def test_chain_has_no_files_of_its_own_to_delete(tmp_path: Path) -> None:
    """Its parts are deleted by their own names, and a row of a chain does not keep them."""
    found = catalog(tmp_path, row(segmenter="sam2:tiny"))
    store = Store(tmp_path)
    for blob in found.resolve("words").blobs.values():
        place = tmp_path / "models" / "blobs" / f"sha256-{blob.sha256}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"12345")

    with pytest.raises(InvalidRequestError, match="delete yoloworld:latest and sam2:tiny instead"):
        store.remove(found.resolve("words"), catalog=found)
    assert store.is_present(found.resolve("words"))
    assert 10 == store.remove(found.resolve("sam2:tiny"), catalog=found)
    assert not store.is_present(found.resolve("words"))
