from pathlib import Path
from typing import Any

import pytest

from osamd.errors import SettingsError
from osamd.settings import Settings, load_settings, variable_of

# Every variable a developer's machine may have set would change what these tests see.
VARIABLES = [variable_of(field) for field in Settings.model_fields]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from outside, and no .env lies in the working directory."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def env_file(folder: Path, text: str) -> Path:
    """A .env file with this text."""
    path = folder / "settings.env"
    path.write_text(text)
    return path


# field, variable, text in the environment or in a file, value it means
EXAMPLES: list[tuple[str, str, str, Any]] = [
    ("host", "OSAMD_HOST", "0.0.0.0", "0.0.0.0"),  # noqa: S104
    ("port", "PORT", "8080", 8080),
    ("app_env", "APP_ENV", "development", "development"),
    ("cache", "OSAMD_CACHE", "/data/models", Path("/data/models")),
    ("preload", "OSAMD_PRELOAD", "builtin, sam2:tiny", ("builtin", "sam2:tiny")),
    ("device", "OSAMD_DEVICE", "cpu", "cpu"),
    ("onnx_providers", "OSAM_ONNX_PROVIDERS", "A,B", ("A", "B")),
    ("threads", "OSAMD_THREADS", "3", 3),
    ("deadline_s", "OSAMD_DEADLINE_S", "2.5", 2.5),
    ("embedding_cache_bytes", "OSAMD_EMBEDDING_CACHE_BYTES", "1000", 1000),
    ("mask_layout", "OSAMD_MASK_LAYOUT", "crop", "crop"),
    ("include", "OSAMD_INCLUDE", "image_embedding", ("image_embedding",)),
    ("docs", "OSAMD_DOCS", "off", "off"),
]


@pytest.mark.parametrize(("field", "variable", "text", "value"), EXAMPLES)
def test_the_environment_beats_the_file_and_the_file_beats_the_default(
    field: str, variable: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One variable, read from a .env file, then overruled by the real environment."""
    default = getattr(load_settings(), field)
    file = env_file(tmp_path, f'{variable}="{text}"\n')
    assert value == getattr(load_settings(env_file=file), field)
    assert default != value

    other = {
        "APP_ENV": "production",
        "PORT": "1",
        "OSAMD_THREADS": "1",
        "OSAMD_DEADLINE_S": "9",
        "OSAMD_DEVICE": "cuda",
    }
    if variable in other:
        monkeypatch.setenv(variable, other[variable])
        assert str(getattr(load_settings(env_file=file), field)).removesuffix(".0") == other[variable]
    monkeypatch.setenv(variable, text)
    assert value == getattr(load_settings(), field)


FLAGS: list[tuple[str, str, str, str, Any]] = [
    ("port", "PORT", "1111", "2222", 3333),
    ("host", "OSAMD_HOST", "a", "b", "c"),
    ("app_env", "APP_ENV", "production", "production", "development"),
    ("preload", "OSAMD_PRELOAD", "a", "b", ("c",)),
    ("onnx_providers", "OSAM_ONNX_PROVIDERS", "a", "b", ("c",)),
    ("threads", "OSAMD_THREADS", "1", "2", 3),
    ("device", "OSAMD_DEVICE", "cuda", "cuda", "cpu"),
]


@pytest.mark.parametrize(("field", "variable", "in_file", "in_environment", "flag"), FLAGS)
def test_a_flag_beats_everything(
    field: str,
    variable: str,
    in_file: str,
    in_environment: str,
    flag: object,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """What was said last and nearest, on the command line, holds; a flag that was not given (None) changes nothing."""
    file = env_file(tmp_path, f"{variable}={in_file}\n")
    monkeypatch.setenv(variable, in_environment)

    assert flag == getattr(load_settings(env_file=file, **{field: flag}), field)
    from_environment = getattr(load_settings(), field)
    assert from_environment == getattr(load_settings(env_file=file, **{field: None}), field)
    assert flag != from_environment


def test_the_keys_variable_is_api_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``API_KEY``, without a prefix, from the environment or the file, the environment first."""
    file = env_file(tmp_path, "API_KEY=from-file\n")
    from_file = load_settings(env_file=file).api_key
    monkeypatch.setenv("API_KEY", "from-environment")
    from_environment = load_settings(env_file=file).api_key

    assert from_file is not None
    assert from_environment is not None
    assert "from-file" == from_file.get_secret_value()
    assert "from-environment" == from_environment.get_secret_value()


def test_no_env_file_is_read_unless_it_is_named(tmp_path: Path) -> None:
    """A .env that happens to lie in the working directory configures nothing."""
    (tmp_path / ".env").write_text("API_KEY=found\nPORT=1\n")

    assert (None, 11368) == (load_settings().api_key, load_settings().port)


@pytest.mark.parametrize("variable", VARIABLES)
def test_empty_means_unset(variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``VARIABLE=`` in a shell, in Compose or in a .env file leaves the default."""
    defaults = load_settings()
    monkeypatch.setenv(variable, "")

    assert defaults == load_settings()
    assert defaults == load_settings(env_file=env_file(tmp_path, f"{variable}=\n"))


@pytest.mark.parametrize("blank", [" ", "\t", "  \n"])
def test_a_blank_key_is_no_key(blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """White space is what is left of a secret that was not filled in: it must not become the key."""
    monkeypatch.setenv("API_KEY", blank)

    assert load_settings().api_key is None


def test_app_env_is_read_as_people_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case and white space around it do not matter."""
    monkeypatch.setenv("APP_ENV", " Development ")

    assert "development" == load_settings().app_env


def test_none_preloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """``none`` is the way to say it, since empty means the default."""
    monkeypatch.setenv("OSAMD_PRELOAD", "none")

    assert () == load_settings().preload


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` from a .env file means what it means in a shell."""
    monkeypatch.setenv("OSAMD_CACHE", "~/somewhere")

    assert Path.home() / "somewhere" == load_settings().cache


BAD = [
    ("PORT", "s3cr3t-port"),
    ("PORT", "70000"),
    ("APP_ENV", "s3cr3t-staging"),
    ("OSAMD_DEVICE", "s3cr3t-tpu"),
    ("OSAMD_THREADS", "-17"),
    ("OSAMD_DEADLINE_S", "-2.75"),
    ("OSAMD_DEADLINE_S", "s3cr3t"),
    ("OSAMD_DEADLINE_S", "inf"),
    ("OSAMD_DECODE_S", "1e8"),
    ("OSAMD_GRACE_S", "1e10"),
    ("OSAMD_EMBEDDING_TTL_S", "1e12"),
    ("OSAMD_EMBEDDING_DISK_TTL_S", "nan"),
    ("OSAMD_EMBEDDING_DISK_TTL_S", "1e12"),
    ("OSAMD_ENCODE_QUEUE", "-37"),
    ("OSAMD_DECODE_QUEUE", "-37"),
    ("OSAMD_MAX_IMAGE_PIXELS", "999999999999"),
    ("OSAMD_INCLUDE", "s3cr3t-embedding"),
    ("OSAMD_MASK_LAYOUT", "s3cr3t-layout"),
    ("OSAMD_DOCS", "s3cr3t-maybe"),
]


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_a_bad_value_names_the_variable_and_never_the_value(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the variable to fix, but not its value, which may be a secret in the wrong place."""
    monkeypatch.setenv(variable, text)

    with pytest.raises(SettingsError) as caught:
        load_settings()

    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert text not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two mistakes are both reported."""
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("OSAMD_THREADS", "y")

    with pytest.raises(SettingsError, match=r"PORT: .*; OSAMD_THREADS: "):
        load_settings()


def test_a_bad_flag_is_named_by_its_variable() -> None:
    """On the command line too the message has the variable's name."""
    with pytest.raises(SettingsError, match=r"^PORT: "):
        load_settings(port="eighty")


def test_the_key_never_shows() -> None:
    """Not in the repr, not in the text, not in a dump: settings end up in logs and tracebacks."""
    settings = load_settings(api_key="s3cr3t-key")

    for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "s3cr3t-key" not in text


def test_settings_do_not_change() -> None:
    """What was read at start holds until the end."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1


def test_every_setting_is_described() -> None:
    """The reference is made from the descriptions."""
    assert [] == [name for name, field in Settings.model_fields.items() if not field.description]
