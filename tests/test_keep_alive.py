import pytest
from hypothesis import given
from hypothesis import strategies as st

from osamd.errors import SettingsError
from osamd.keep_alive import LONGEST_S, PINNED, KeepAlive, at_most, parse_keep_alive
from osamd.settings import load_settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("90s", 90.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("45", 45.0),
        (45, 45.0),
        (0.5, 0.5),
        (" 5m ", 300.0),
        (0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (-1, PINNED),
        ("-1", PINNED),
        ("-5m", PINNED),
        (-0.5, PINNED),
        (None, None),
        ("", None),
        (10**30, LONGEST_S),
    ],
)
def test_spellings(text: object, seconds: float | None) -> None:
    """Every spelling that Ollama's users know means the same here."""
    assert seconds == parse_keep_alive(text)


@pytest.mark.parametrize(
    ("wish", "allowed", "granted"),
    [
        (LONGEST_S, 300.0, 300.0),
        (PINNED, 300.0, 300.0),
        (60.0, 300.0, 60.0),
        (0.0, 300.0, 0.0),
        (60.0, 0.0, 0.0),
        (None, 300.0, None),
        (60.0, None, 60.0),
        (60.0, PINNED, 60.0),
    ],
)
def test_keep_alive_is_capped(wish: KeepAlive, allowed: KeepAlive, granted: KeepAlive) -> None:
    """Shorter is granted; no wish stays none; for good, and until room is needed, allow everything shorter."""
    assert granted == at_most(wish, allowed)


@pytest.mark.parametrize("text", ["soon", "5 m", "5d", "m", "1e3", "nan", "inf", "--1", "5m30s", True, [5], {}, b"5m"])
def test_nonsense(text: object) -> None:
    """Anything else is an error that shows what is expected."""
    with pytest.raises(ValueError, match="5m, 90s"):
        parse_keep_alive(text)


@given(st.one_of(st.text(max_size=8), st.floats(), st.integers(), st.booleans()))
def test_anything_is_seconds_or_an_error(value: object) -> None:
    """No input gives a time that a timer cannot have."""
    try:
        seconds = parse_keep_alive(value)
    except ValueError:
        return
    assert seconds is None or seconds == PINNED or 0 <= seconds <= LONGEST_S


def test_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """``OSAMD_KEEP_ALIVE`` is spelt the same way, and nonsense is named by its variable."""
    monkeypatch.setenv("OSAMD_KEEP_ALIVE", "5m")
    assert load_settings().keep_alive == 300.0
    monkeypatch.setenv("OSAMD_KEEP_ALIVE", "soon")
    with pytest.raises(SettingsError, match="OSAMD_KEEP_ALIVE"):
        load_settings()
