"""Text files that people edit, in the encodings of their editors: keys, models and .env."""

import codecs
from pathlib import Path

import pytest

from osamd.errors import SettingsError
from osamd.files import text_encoding
from osamd.library.catalog import load_catalog
from osamd.server.guard.keys import KeyFile
from osamd.settings import load_settings

# Of Windows: Notepad's UTF-8, PowerShell's >, and the same without a byte order mark.
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
SECRET = "a-secret-of-alice-41"  # pragma: allowlist secret
ROW = f"""[[model]]
name = "mine:tiny"
family = "sam"
license = "Lizenz für alle"
[model.blobs.encoder]
url = "https://models.example/encoder.onnx"
sha256 = "{"a" * 64}"
[model.blobs.decoder]
url = "https://models.example/decoder.onnx"
sha256 = "{"b" * 64}"
"""

every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


@every_encoding
@pytest.mark.parametrize("text", ["", "a", "ab\n", "# \u00e9 \U0001f408\n"])
def test_an_encoding_is_told_by_its_first_bytes(encoding: str, text: str) -> None:
    """The text is read without its mark."""
    data = text.encode(encoding)
    assert text == data.decode(text_encoding(data)).removeprefix(codecs.BOM_UTF8.decode())


@every_encoding
def test_key_files(encoding: str, tmp_path: Path) -> None:
    """The first line, behind the mark, counts too."""
    file = tmp_path / "keys"
    file.write_bytes(f"alice user {SECRET}\n".encode(encoding))
    file.chmod(0o600)

    assert KeyFile(file).find(SECRET.encode()) is not None


@every_encoding
def test_models_toml(encoding: str, tmp_path: Path) -> None:
    """Rows are read, and nothing is complained of."""
    file = tmp_path / "models.toml"
    file.write_bytes(ROW.encode(encoding))
    catalog = load_catalog(file)

    assert not catalog.problems
    assert catalog.resolve("mine:tiny").license == "Lizenz für alle"


@every_encoding
def test_env_files(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first variable, behind the mark, too."""
    monkeypatch.delenv("API_KEY", raising=False)
    monkeypatch.delenv("OSAMD_MASK_LAYOUT", raising=False)
    file = tmp_path / ".env"
    file.write_bytes(f"API_KEY={SECRET}\r\nOSAMD_MASK_LAYOUT=crop\r\n".encode(encoding))
    settings = load_settings(env_file=file)

    assert settings.api_key is not None
    assert (settings.api_key.get_secret_value(), settings.mask_layout) == (SECRET, "crop")


def test_an_env_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    """No traceback."""
    file = tmp_path / ".env"
    file.write_bytes(b"API_KEY=\xe9\n")
    with pytest.raises(SettingsError, match=r"\.env is not UTF-8"):
        load_settings(env_file=file)
