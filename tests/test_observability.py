"""Files for Prometheus and Grafana: each holds, and speaks of metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from osamd.runtime.nvidia import DeviceMemory
from osamd.server.telemetry.metrics import Metrics
from osamd.status import CacheStatus, EngineStatus, LaneStatus

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "observability"
STATUS = EngineStatus("ready", (LaneStatus("encode", 0, 1, 0, 0),), CacheStatus(0, 0, 0), (), ())
SUFFIXES = r"(_total|_bucket|_sum|_count)?$"


def known() -> set[str]:
    """Names of the families a server has."""
    return {family.name for family in Metrics().families(STATUS, [DeviceMemory("cuda:0", 1, 1)])}


@pytest.mark.parametrize("name", ["alerts.yaml", "alerts_test.yaml", "dashboard.json"])
def test_documented_metrics_exist(name: str) -> None:
    """A metric that was renamed would leave an alert silent and a panel empty."""
    text = (FOLDER / name).read_text("utf-8")

    spoken_of = {re.sub(SUFFIXES, "", metric) for metric in re.findall(r"\b(?:osamd|process)_[a-z_]+", text)}

    assert spoken_of
    assert set() == spoken_of - known()


@pytest.mark.parametrize(
    "command", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")], ids=["check", "test"]
)
def test_alert_rules_hold(command: tuple[str, ...]) -> None:
    """By promtool's own judgement, and on series in which what they warn of happens."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT CHECKED: no promtool here (Debian: apt-get install prometheus)")

    done = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr


def test_panels_do_not_overlap() -> None:
    """Each has a place and an id of its own."""
    panels = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))["panels"]
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(places) == len(set(places))
    assert len(panels) == len({panel["id"] for panel in panels})
