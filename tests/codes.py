"""The code that the playground shows, run as a user would after pasting it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from chromium import Playground
from serving import KEY, clean_environment
from waiting import WAIT_S

# What each language needs beside the key and the photo.
NEEDS = {"curl": ("curl", "jq"), "python": (), "javascript": ("node",)}


def codes_of(playground: Playground) -> Iterator[tuple[str, str]]:
    """The languages that can run here, and the code in each."""
    for language, tools in NEEDS.items():
        playground.page.locator(f"#tab-{language}").click()
        if all(map(shutil.which, tools)):
            yield language, playground.page.locator("#code").text_content() or ""


def run_code(language: str, code: str, folder: Path) -> str:
    """Run it in a folder with the key in the environment; what it prints."""
    commands = {
        "curl": ["sh", "-c", code],
        "python": [sys.executable, "-c", code],
        "javascript": ["node", "--input-type=module", "-e", code],
    }
    ended = subprocess.run(
        commands[language],
        cwd=folder,
        env=clean_environment({"API_KEY": KEY}),
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )
    assert ended.returncode == 0, (language, ended.stderr)
    return ended.stdout
