import inspect
import re

import pytest

import osamd.errors
from osamd.errors import CapacityError, InferenceError, ModelLoadError, ModelUnavailableError, OsamdError

CLASSES: dict[str, type[OsamdError]] = {
    name: value
    for name, value in vars(osamd.errors).items()
    if inspect.isclass(value) and issubclass(value, OsamdError)
}
LINE = re.compile(r"^ {4}(?P<branch>[|` -]*)(?P<name>[A-Z]\w+)(?:\s+(?P<status>\d{3}) (?P<code>\w+))?")


def drawn() -> dict[str, tuple[str | None, str | None, str | None]]:
    """The tree of the module's docstring: name -> parent, status, code."""
    tree: dict[str, tuple[str | None, str | None, str | None]] = {}
    path: list[str] = []
    for line in (osamd.errors.__doc__ or "").splitlines():
        match = LINE.match(line)
        if match:
            depth = len(match["branch"]) // 3
            path = [*path[:depth], match["name"]]
            tree[match["name"]] = (path[-2] if depth else None, match["status"], match["code"])
    return tree


def test_the_tree_is_drawn_as_it_is() -> None:
    """Every class is in the drawing, below its parent, and nothing else is."""
    assert {name: kind.__mro__[1].__name__ for name, kind in CLASSES.items() if kind is not OsamdError} == {
        name: parent for name, (parent, _, _) in drawn().items() if parent is not None
    }
    assert set(CLASSES) == set(drawn())


@pytest.mark.parametrize("name", [name for name, (_, status, _) in drawn().items() if status is not None])
def test_status_and_code_are_as_drawn(name: str) -> None:
    """The drawing is what clients' authors read."""
    _, status, code = drawn()[name]

    assert (status, code) == (str(CLASSES[name].status), CLASSES[name].code)


def test_every_leaf_has_a_code_of_its_own() -> None:
    """A client can tell every error from every other by its code alone, and each has a status or is none for HTTP."""
    parents = {parent for parent, _, _ in drawn().values()}
    leaves = [kind for name, kind in CLASSES.items() if name not in parents]
    codes = [kind.code for kind in leaves]

    assert len(codes) == len(set(codes))
    unanswered = {name for name, (_, status, _) in drawn().items() if status is None and name not in parents}
    assert {"SettingsError", "UnreachableError"} == unanswered


@pytest.mark.parametrize("kind", CLASSES.values())
def test_errors_have_what_an_answer_needs(kind: type[OsamdError]) -> None:
    """A client or server status, a code in snake case, and an exit code that is not success."""
    assert 400 <= kind.status < 600
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert 0 < kind.exit_code < 128
    assert kind.__doc__


@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if issubclass(kind, CapacityError)])
def test_capacity_errors_have_retry_after(kind: type[CapacityError]) -> None:
    """Always a default, and the raiser's own number where there is one."""
    assert kind("busy").retry_after_s
    assert 7.5 == kind("busy", retry_after_s=7.5).retry_after_s


@pytest.mark.parametrize("kind", [ModelLoadError, InferenceError])
def test_internal_model_messages_are_hidden_from_callers(kind: type[OsamdError]) -> None:
    """Paths and engine messages stay in the log."""
    error = kind("/home/somebody/models/encoder.onnx: bad allocation")

    assert "somebody" not in error.public_message
    assert "somebody" in str(error)


def test_other_messages_are_shown_as_they_are() -> None:
    """Errors that the caller can fix, or wait out, are shown in full, with the field."""
    error = ModelUnavailableError("sam is not here", field="model")

    assert ("sam is not here", "model") == (error.public_message, error.field)
