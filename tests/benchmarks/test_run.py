import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import run


def test_a_run_measures_both_servers_and_writes_what_it_found(
    small_blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes of osamd and osam; raw numbers, machine and commit in the file, rows in the table."""
    results = tmp_path / "results"
    command = ["run", "--quick", "--only", "new_image", "--blobs", str(small_blobs), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", command)

    run.main()

    document = json.loads((results / "new_image.json").read_text("utf-8"))
    assert {"osamd", "osam", "bare"} <= set(document["raw"])
    assert [5, 5] == [len(document["raw"][side]) for side in ("osamd", "osam")]
    assert "0.8.1" == document["on"]["versions"]["osam"]
    assert {"encode", "decode", "reply"} <= set(document["raw"]["stages"])
    told = capsys.readouterr().out
    assert 2 == told.count("first request on a new image")
    assert told.strip() in (results / "table.md").read_text("utf-8")


def test_a_scenario_that_is_not_there_is_refused(
    small_blobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing mistake must not look like a run without rows."""
    monkeypatch.setattr(sys, "argv", ["run", "--only", "clik", "--blobs", str(small_blobs)])

    with pytest.raises(SystemExit) as ended:
        run.main()

    assert 2 == ended.value.code
    assert "no such scenario: clik" in capsys.readouterr().err


def test_missing_models_are_named_with_the_command_that_builds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than a failure of ONNX Runtime."""
    monkeypatch.setattr(sys, "argv", ["run", "--only", "click", "--blobs", str(tmp_path), "--results", str(tmp_path)])

    with pytest.raises(FileNotFoundError, match="make bench-blobs builds it"):
        run.main()


def test_rows_of_another_machine_are_named() -> None:
    """Some scenarios may have been measured again elsewhere: a table without their machine would mislead."""

    def document(scenario: str, processor: str) -> dict[str, Any]:
        on = {"processor": processor, "cores": 2, "memory_gb": 24, "system": "Linux", "python": "3.11", "versions": {}}
        on |= {"commit": "abc", "command": "python -m benchmarks.run"}
        return {"scenario": scenario, "at": "2026-11-29", "on": on, "rows": [], "notes": []}

    told = run.page([document("click", "Old"), document("memory", "New"), document("health", "Old")])
    assert told.splitlines()[2].startswith("Old, 2 cores")
    assert "memory: on New, 2 cores" in told
    assert 1 == told.count("Old")
