"""What the documentation points at is there."""

import re
from pathlib import Path

import pytest

from osamd.library.families import FAMILIES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FOLDERS = ("tests", "deploy", "scripts", "requirements", "docs", "examples", "benchmarks", "src")
# A script of segment-anything's own repository.
THEIRS = {"scripts/export_onnx_model.py"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the repository finds it."""
    text = page.read_text("utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith(("#", "mailto:"))]
    assert [] == [link for link in local if link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    """A path in code type that begins with one of our folders is a file or folder here."""
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", page.read_text("utf-8"))
    assert [] == [path for path in named if not (ROOT / path).exists() and path not in THEIRS]


def test_every_file_of_the_parity_page_exists() -> None:
    """Where the page on the seed document says kept, the module and the test are there."""
    text = (ROOT / "docs" / "reference" / "seed-parity.md").read_text("utf-8")
    modules = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|toml))`", text)) - {"main.py", "send_request_example.py"}
    assert "to come" not in text
    assert [] == [
        name for name in modules if not list((ROOT / "src" / "osamd").rglob(name)) and not (ROOT / name).exists()
    ]


def test_decisions_are_numbered_from_one_without_repeats() -> None:
    """Each by its file and its title."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [f"{number:04d}" for number in range(1, len(pages) + 1)] == [page.name[:4] for page in pages]
    for number, page in enumerate(pages, 1):
        assert page.read_text("utf-8").startswith(f"# {number}. "), page.name


def test_the_guide_to_everything_gives_the_defaults_of_each_family() -> None:
    """Those that the families have."""
    guide = (ROOT / "docs" / "guides" / "everything.md").read_text("utf-8")
    for name in ("points_per_side", "box_nms_thresh"):
        own, others = getattr(FAMILIES["builtin"], name), getattr(FAMILIES["sam"], name)
        assert f"| `{name}` | {others}; built-in {own} |" in guide
    for row, family in (("built-in", "builtin"), ("SAM", "sam"), ("SAM 2", "sam2"), ("EfficientSAM", "efficientsam")):
        least_score, least_stability = FAMILIES[family].thresholds
        assert f"| {row} | {least_score} | {least_stability} |" in guide
