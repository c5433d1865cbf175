import hashlib
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from training.sources import NpmSource, check_programs, unpack


@pytest.fixture
def source(tmp_path: Path) -> NpmSource:
    """A package that was downloaded to ``tmp_path`` before."""
    picture = tmp_path / "picture.webp"
    picture.write_bytes(b"pixels")
    archive = tmp_path / "npm" / "someone-pictures-1.2.0.tgz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as files:
        files.add(picture, "package/assets/picture.webp")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    return NpmSource("@someone/pictures", "MIT", version="1.2.0", sha256=digest, notice=tmp_path / "licence.txt")


def test_an_npm_package_is_unpacked(tmp_path: Path, source: NpmSource) -> None:
    """Under its name and version, and found there the next time."""
    for _ in range(2):
        package = unpack(source, tmp_path)

        assert tmp_path / "unpacked" / "someone-pictures_1.2.0" == package.folder
        assert b"pixels" == (package.folder / "package/assets/picture.webp").read_bytes()
        assert source.notice == package.copyright_file


def test_an_npm_package_with_another_content_is_refused(tmp_path: Path, source: NpmSource) -> None:
    """Nothing of it is unpacked."""
    with pytest.raises(RuntimeError, match=r"is not @someone/pictures 1\.2\.0"):
        unpack(replace(source, sha256="0" * 64), tmp_path)

    assert not (tmp_path / "unpacked").exists()


def test_without_npm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Debian system."""
    monkeypatch.setattr("training.sources.shutil.which", lambda name: None if name == "npm" else f"/usr/bin/{name}")

    with pytest.raises(RuntimeError, match=r"npm is needed, for the emoji: `apt-get install npm`"):
        check_programs()
