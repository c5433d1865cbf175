import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMISE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_is_named_is_there() -> None:
    """Every test named in SECURITY.md exists."""
    named = PROMISE.findall((ROOT / "SECURITY.md").read_text("utf-8"))
    missing = [
        f"{path}::{name}"
        for path, name in named
        if re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE) is None
    ]

    assert len(named) > 50
    assert [] == missing


def test_every_promise_names_a_test() -> None:
    """Between the two headings each line of a list has at least one, or the benchmark that measures it."""
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    promised = text.partition("## What is promised")[2].partition("## What is not promised")[0]
    promises = re.split(r"\n- ", promised)[1:]

    assert [] == [promise for promise in promises if not PROMISE.search(promise) and "`benchmarks/" not in promise]
