import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from osamd.library.catalog import load_catalog
from osamd.library.rows import filename_of, read_rows, shown_url

FILE = Path("models.toml")
SCALARS = st.one_of(
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.datetimes(),
    st.dates(),
    st.sampled_from(["sam", "sam3", "mine:1", "file:///x/y.onnx", "https://x/y", "http://[::1", "package:x", "a" * 64]),
)
KEYS = st.sampled_from(["name", "family", "aliases", "license", "license_url", "blobs", "encoder", "decoder", "x\n"])
FILE_KEYS = st.sampled_from(["url", "sha256", "bytes", "attachments", "more"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | FILE_KEYS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
BLOB = st.dictionaries(FILE_KEYS, VALUES, max_size=4)
SOURCE = st.sampled_from([{"url": "file:///m/e"}, {"url": "https://x/e", "sha256": "A" * 64, "bytes": 7}])
GOOD_ROW = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z]{1,3}(:[a-z])?", fullmatch=True),
        "family": st.just("sam"),
        "blobs": st.fixed_dictionaries({"encoder": SOURCE, "decoder": SOURCE}),
    },
    optional={"license": st.just("MIT"), "aliases": st.lists(st.from_regex(r"[a-z]{1,3}", fullmatch=True), max_size=2)},
)
ROW = st.fixed_dictionaries(
    {},
    optional={
        "name": SCALARS,
        "family": st.sampled_from(["sam", "sam3", "yoloworld"]) | VALUES,
        "blobs": st.dictionaries(st.sampled_from(["encoder", "decoder", "x"]), BLOB | VALUES, max_size=3) | VALUES,
        "aliases": VALUES,
        "license": VALUES,
        "license_url": VALUES,
        "extra": VALUES,
    },
)


def as_toml(value: Any) -> str:
    """A value as inline TOML; floats and dates as TOML spells them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{as_toml(key)} = {as_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, str):
        # JSON's escapes are TOML's; only DEL must be one in TOML and is none in JSON.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, dt.date) else str(value)


@given(rows=st.lists(GOOD_ROW | ROW | VALUES, max_size=4))
@settings(deadline=None, max_examples=150)
def test_any_rows_end_as_models_or_as_problems(rows: list[Any]) -> None:
    """Whatever stands in a file, nothing is raised, and each row is either a model or reported, never both."""
    good, problems = read_rows(f"model = {as_toml(rows)}\n", FILE)
    bad = {problem.row for problem in problems}
    assert set() == bad & set(good)
    if None not in bad:
        assert set(range(1, len(rows) + 1)) == bad | set(good)
    for problem in problems:
        assert str(problem).isprintable() or problem.row is None


@given(rows=st.lists(GOOD_ROW | ROW, max_size=6))
@example(rows=[{"name": "i", "family": {"": {}, "\x7f": {}}}])
@settings(deadline=None, max_examples=100)
def test_each_row_of_a_users_file_is_a_model_or_reported(rows: list[Any], tmp_path_factory: Any) -> None:
    """In a whole catalogue too: good rows whose names are free are there, all others are named by their number."""
    file = tmp_path_factory.mktemp("rows") / "models.toml"
    file.write_text(f"model = {as_toml(rows)}\n", "utf-8")
    catalog = load_catalog(file)
    bad = {problem.row for problem in catalog.problems}
    assert len(rows) == len([model for model in catalog if model.origin]) + len(bad)
    for model in catalog:
        assert model is catalog.resolve(model.name)
        assert all(model is catalog.resolve(alias) for alias in model.aliases)


@given(data=st.binary(max_size=200))
@settings(deadline=None, max_examples=50)
def test_any_bytes_end_as_a_catalogue(data: bytes, tmp_path_factory: Any) -> None:
    """A file of arbitrary bytes never takes the shipped models away."""
    file = tmp_path_factory.mktemp("rows") / "models.toml"
    file.write_bytes(data)
    assert 12 <= len(list(load_catalog(file)))


@given(url=st.sampled_from(["https://x/a/b.onnx", "https://x/a%20b.onnx?x=/y", "https://x/a;v=1#z/w", "https://x/a/"]))
def test_files_have_the_names_osam_gives_them(url: str) -> None:
    """The name of a file is the end of its URL's path, undecoded, without parameters, query or fragment."""
    from osam.types._blob import Blob  # noqa: PLC0415 - the peer is slow to import

    assert Blob(url=url, hash="sha256:0").filename == filename_of(url)


@pytest.mark.parametrize("field", ["license_url", "source_url"])
def test_links_with_passwords_are_refused(field: str, tmp_path: Path) -> None:
    """Everybody who lists models sees links, so they may not carry a password; the problem does not repeat it."""
    row = f'[[model]]\nname="a"\nfamily="sam"\n{field}="https://me:hush@example.org/x"\n'
    rows, problems = read_rows(row + 'blobs.encoder.url="file:///e"\nblobs.decoder.url="file:///d"\n', tmp_path)
    assert not rows
    assert [field] == [problem.field for problem in problems]
    assert "user name or password" in problems[0].message
    assert "hush" not in str(problems[0])


def test_shown_urls() -> None:
    """What stands in logs and listings has no name, password, query or fragment."""
    assert "https://[::1]:8443/a/b.onnx" == shown_url("https://me:hush@[::1]:8443/a/b.onnx?sig=hush#hush")
    assert "https://example.org/b" == shown_url("https://a@hush@example.org/b")
    assert ["file:///a/b", "package:e.onnx"] == [shown_url("file:///a/b"), shown_url("package:e.onnx")]
    assert "hush" not in shown_url("https://hush[@/x")
