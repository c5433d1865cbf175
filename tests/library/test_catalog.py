import os
from pathlib import Path

import pytest

from osamd.errors import UnknownModelError
from osamd.library.catalog import Catalog, load_catalog
from osamd.settings import USER_CATALOG, load_settings

A = "a" * 64
B = "b" * 64
WEB = f"""
[[model]]
name = "mine:tiny"
family = "sam"
[model.blobs.encoder]
url = "https://models.example/encoder.onnx"
sha256 = "{A}"
bytes = 12
[model.blobs.decoder]
url = "http://models.example/decoder.onnx"
sha256 = "{B.upper()}"
"""


def load(tmp_path: Path, text: str) -> Catalog:
    """The catalogue with a user's file of this text."""
    file = tmp_path / "models.toml"
    file.write_text(text, "utf-8")
    return load_catalog(file)


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is said about a file, without the file's name."""
    catalog = load(tmp_path, text)
    return [str(problem).removeprefix(f"{tmp_path / 'models.toml'}: ") for problem in catalog.problems]


def row(name: str = "mine", *, more: str = "", encoder: str = f'url = "https://m.example/e"\nsha256 = "{A}"') -> str:
    """A row of the family sam; ``more`` goes into the row, ``encoder`` replaces that blob's lines."""
    return (
        f'[[model]]\nname = "{name}"\nfamily = "sam"\n{more}\n[model.blobs.encoder]\n{encoder}\n'
        f'[model.blobs.decoder]\nurl = "https://m.example/d"\nsha256 = "{B}"\n'
    )


def test_the_shipped_rows_are_osams_eleven_and_ours() -> None:
    """Without a user's file there are osam's eleven models and the built-in one, and no problems."""
    from osam import apis  # noqa: PLC0415 - the peer is slow to import

    catalog = load_catalog()
    theirs = {cls.name: cls for cls in apis.registered_model_types}
    ours = {model.name: model for model in catalog}
    assert set(theirs) | {"builtin:latest"} == set(ours)
    assert () == catalog.problems
    for name, cls in theirs.items():
        assert {role: (blob.url, blob.hash) for role, blob in cls._blobs.items()} == {
            role: (blob.url, f"sha256:{blob.sha256}") for role, blob in ours[name].blobs.items()
        }
        for role, blob in cls._blobs.items():
            assert [(file.url, file.hash) for file in blob.attachments] == [
                (file.url, f"sha256:{file.sha256}") for file in ours[name].blobs[role].attachments
            ]


def test_a_users_row_is_a_model(tmp_path: Path) -> None:
    """A good row can be resolved; digests are lower case, sizes are kept, the file is remembered."""
    catalog = load(tmp_path, WEB)
    model = catalog.resolve("mine:tiny")
    assert () == catalog.problems
    assert (A, B) == (model.blobs["encoder"].sha256, model.blobs["decoder"].sha256)
    assert (12, None) == (model.blobs["encoder"].nbytes, model.blobs["decoder"].nbytes)
    assert tmp_path / "models.toml" == model.origin
    assert catalog.resolve("sam2:tiny").origin is None


def test_download_size_is_known_when_every_file_gives_one(tmp_path: Path) -> None:
    """Bytes to download: the sum of all files, or nothing where one of them has no size."""
    whole = WEB + "bytes = 30\n"
    assert 42 == load(tmp_path, whole).resolve("mine:tiny").download_nbytes
    assert load(tmp_path, WEB).resolve("mine:tiny").download_nbytes is None


def test_a_name_without_a_tag_means_latest(tmp_path: Path) -> None:
    """A row named ``mine`` is ``mine:latest``, and answers to ``mine``."""
    catalog = load(tmp_path, row("mine"))
    assert "mine:latest" == catalog.resolve("mine").name == catalog.resolve("mine:latest").name


def test_bad_rows_do_not_hide_good_ones(tmp_path: Path) -> None:
    """Between two bad rows a good one loads, and each bad one is reported with its row, name and field."""
    text = row("one", encoder='url = "https://m.example/e"') + row("two") + row("thr ee")
    catalog = load(tmp_path, text)
    assert "two:latest" == catalog.resolve("two").name
    assert [(1, "one", "blobs.encoder.sha256"), (3, "thr ee", "name")] == [
        (problem.row, problem.name, problem.field) for problem in catalog.problems
    ]
    assert {tmp_path / "models.toml"} == {problem.file for problem in catalog.problems}
    with pytest.raises(UnknownModelError):
        catalog.resolve("one")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (row(more="color = 1"), "row 1 (mine), color is unknown; expected one of: name, family, aliases, license,"),
        (row(more="license = 1"), "row 1 (mine), license must be a string"),
        (row(more='license = "MIT\\nGPL"'), "row 1 (mine), license must be one line"),
        (row(more='license_url = "javascript:x"'), "row 1 (mine), license_url must begin with http:// or https://"),
        (row(more='aliases = "x"'), "row 1 (mine), aliases must be a list"),
        (row(more='aliases = ["a b"]'), "row 1 (mine), aliases[0] must be a name such as"),
        (row().replace('"sam"', '"sam9"'), "row 1 (mine), family must be one of builtin, sam, sam2"),
        (row().replace('family = "sam"', ""), "row 1 (mine), family is missing"),
        (row().replace("decoder", "decodes"), "row 1 (mine), blobs must have decoder, which the family sam"),
        (
            row() + f'[model.blobs.x]\nurl = "http://x/x"\nsha256 = "{A}"\n',
            "row 1 (mine), blobs must only have encoder",
        ),
        (row(encoder='url = "https://m.example/e"\nsha256 = "xyz"'), "blobs.encoder.sha256 must be 64 hexadecimal"),
        (row(encoder=f'url = "ftp://m.example/e"\nsha256 = "{A}"'), "blobs.encoder.url must begin with file://, http"),
        (
            row(encoder=f'url = "package:encoder.onnx"\nsha256 = "{A}"'),
            "blobs.encoder.url must not begin with package:",
        ),
        (row(encoder=f'url = "https:///e"\nsha256 = "{A}"'), "blobs.encoder.url has no host"),
        (row(encoder=f'url = "https://[x/e"\nsha256 = "{A}"'), "blobs.encoder.url is not a valid URL"),
        (row(encoder=f'url = "https://x/a b"\nsha256 = "{A}"'), "blobs.encoder.url must not contain spaces"),
        (row(encoder='url = "file://models/e.onnx"'), "blobs.encoder.url must have an absolute path"),
        (row(encoder='url = "file:///e#1.onnx"'), "blobs.encoder.url must not contain ? or #"),
        (row(encoder=f'url = "http://x/e"\nsha256 = "{A}"\nbytes = 1.5'), "blobs.encoder.bytes must be a whole number"),
        (
            row(encoder=f'url = "http://x/e"\nsha256 = "{A}"\nurls = 1'),
            "blobs.encoder.urls is unknown; expected one of:",
        ),
        (row(encoder=f'sha256 = "{A}"'), "blobs.encoder.url is missing"),
        ("[[model]]\nname = 3\n", "row 1, name must be a string"),
        ("model = [1]\n", "row 1 must be a table"),
        ("model = 1\n", "model must be rows that begin with [[model]]"),
        (row().replace("[[model]]", "[[models]]", 1).replace("[model.", "[models."), "models is unknown"),
        ("[[model\n", "is not valid TOML: "),
        (row("builtin"), "row 1 (builtin:latest), name is reserved"),
    ],
)
def test_each_mistake_in_a_row_is_explained(tmp_path: Path, text: str, expected: str) -> None:
    """A bad row names its place and field, and says what is wrong in words."""
    found = problems(tmp_path, text)
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("url", "beside", "expected"),
    [
        ("https://x/e.onnx", "https://x/", "must have URLs that end in a file's name"),
        ("https://x/e.onnx", "https://x/..", "must have URLs that end in a file's name"),
        ("https://x/e.onnx", "https://y/e.onnx?v=2", "must have different file names"),
        ("file:///m/e.onnx", "file:///n/e.data", "must be in the same folder"),
        ("file:///m/e.onnx", "https://x/e.data", "must be in the same folder"),
        ("https://x/e.onnx", "file:///m/e.data", "must be in the same folder"),
    ],
)
def test_attachments_must_fit_beside_their_blob(tmp_path: Path, url: str, beside: str, expected: str) -> None:
    """An attachment's URL gives the name under which the graph finds it, so a name that cannot work is refused."""
    encoder = f'url = "{url}"\nsha256 = "{A}"\nattachments = [{{ url = "{beside}", sha256 = "{B}" }}]'
    (found,) = problems(tmp_path, row(encoder=encoder))
    assert found.startswith("row 1 (mine), blobs.encoder.attachments ")
    assert expected in found


def test_names_and_aliases_lead_to_one_model_each(tmp_path: Path) -> None:
    """A name or alias that leads elsewhere already is refused, within the file and against the shipped rows."""
    text = (
        row("one", more='aliases = ["uno"]')
        + row("one:latest")
        + row("two", more='aliases = ["uno"]')
        + row("uno")
        + row("three", more='aliases = ["sam_vit_b"]')
        + row("four", more='aliases = ["one"]')
    )
    catalog = load(tmp_path, text)
    assert [
        (2, "name", "is already used by an earlier row"),
        (3, "aliases", "cannot be uno, which already names one:latest"),
        (4, "name", "cannot be uno, which already names one:latest"),
        (5, "aliases", "cannot be sam_vit_b, which already names sam:100m"),
        (6, "aliases", "cannot be one, which already names one:latest"),
    ] == [(problem.row, problem.field, problem.message) for problem in catalog.problems]
    assert "one:latest" == catalog.resolve("uno").name


def test_a_users_row_replaces_a_shipped_one(tmp_path: Path) -> None:
    """A row named like a shipped one takes its place, and the shipped aliases follow."""
    catalog = load(tmp_path, row("sam:latest", more='aliases = ["huge"]'))
    assert () == catalog.problems
    assert A == catalog.resolve("sam").blobs["encoder"].sha256
    assert "sam:latest" == catalog.resolve("sam_vit_h").name == catalog.resolve("huge").name
    assert len(list(load_catalog())) == len(list(catalog))


def test_a_bad_row_leaves_the_shipped_one(tmp_path: Path) -> None:
    """A row that would replace a shipped one but is bad changes nothing."""
    catalog = load(tmp_path, row("sam:latest", more="x = 1"))
    assert 1 == len(catalog.problems)
    assert catalog.resolve("sam").origin is None


@pytest.mark.parametrize("content", [None, b"\xff\xfex", b"x = " + b"[" * 100_000], ids=["missing", "no text", "deep"])
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path, content: bytes | None) -> None:
    """The shipped models remain, and the file is reported as a whole."""
    file = tmp_path / "models.toml"
    if content is not None:
        file.write_bytes(content)
    catalog = load_catalog(file)
    assert 12 == len(list(catalog))
    assert [(file, None)] == [(problem.file, problem.row) for problem in catalog.problems]


def test_the_digest_follows_a_local_file(tmp_path: Path) -> None:
    """A ``file://`` blob needs no digest; the model's own changes with the file, and with nothing else."""
    encoder = tmp_path / "enc oder.onnx"
    encoder.write_bytes(b"one")
    model = load(tmp_path, row(encoder=f'url = "file://{tmp_path}/enc%20oder.onnx"')).resolve("mine")
    first = model.digest
    assert first == model.digest
    encoder.write_bytes(b"another")
    second = model.digest
    assert first != second
    os.utime(encoder, ns=(1, 1))
    assert second != model.digest
    encoder.unlink()
    assert len({first, second, model.digest}) == 3


def test_the_digest_covers_attachments(tmp_path: Path) -> None:
    """Weights that lie beside a graph are part of what the model is."""

    def digest(attached: str) -> str:
        lines = f'url = "https://x/e"\nsha256 = "{A}"\nattachments = [{{ url = "https://x/f", sha256 = "{attached}" }}]'
        return load(tmp_path, row(encoder=lines)).resolve("mine").digest

    assert digest(A) != digest(B)


def test_the_users_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OSAMD_CATALOG names the file; otherwise it is the usual one, if it is there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OSAMD_CATALOG", raising=False)
    assert load_settings().user_catalog is None
    usual = Path(USER_CATALOG).expanduser()
    usual.parent.mkdir(parents=True)
    usual.write_text("")
    assert usual == load_settings().user_catalog
    monkeypatch.setenv("OSAMD_CATALOG", "~/elsewhere.toml")
    assert tmp_path / "elsewhere.toml" == load_settings().user_catalog


def test_endpoints_are_read_as_osam_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by commas, blanks dropped, and no word but ``direct`` has a meaning."""
    from osam.types import _blob  # noqa: PLC0415 - the peer is slow to import

    for value in ("", " , ", "http://a/, direct ,,http://b", "none", "direct"):
        monkeypatch.setenv("OSAM_BLOB_ENDPOINT", value)
        assert _blob._resolve_endpoints() == (list(load_settings().blob_endpoint) or ["direct"])
