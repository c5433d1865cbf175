import os
import stat
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from graphs import write_family

from osamd.errors import ModelLoadError
from osamd.runtime import graphs
from osamd.runtime.graphs import GraphCache
from osamd.runtime.sessions import CPU, Placement, Session, graph_cache

X = np.linspace(-1, 1, 3 * 1024 * 1024, dtype=np.float32).reshape(1, 3, 1024, 1024)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A small graph that loads."""
    return write_family("sam", tmp_path)["encoder"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that ONNX Runtime is given, in order."""
    real, names = ort.InferenceSession, []

    def create(path: Path, *args: object, **keywords: object) -> object:
        names.append(Path(path).name)
        return real(path, *args, **keywords)

    monkeypatch.setattr(ort, "InferenceSession", create)
    return names


def kept(folder: Path) -> list[str]:
    """What is in the folder."""
    return sorted(entry.name for entry in folder.iterdir())


def test_the_second_start_loads_what_the_first_one_optimised(graph: Path, tmp_path: Path, loaded: list[str]) -> None:
    """The optimised graph is kept once, loaded from then on, and answers the same."""
    placement = Placement((CPU,), 1, graphs=graph_cache(tmp_path / "kept"))
    answers = [Session(graph, placement).run({"x": X})[0] for _ in range(3)]
    (name,) = kept(tmp_path / "kept")

    assert [graph.name, name, name] == loaded
    np.testing.assert_array_equal(Session(graph, Placement((CPU,), 1)).run({"x": X})[0], answers[0])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_another_file_version_provider_or_processor_is_another_graph(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimised graphs are never taken for what they are not."""
    cache = GraphCache(tmp_path, "1.0")
    first = cache.place(graph, provider=CPU)
    others = [GraphCache(tmp_path, "1.1").place(graph, provider=CPU), cache.place(graph, provider="Other")]
    monkeypatch.setattr(graphs, "_processor", lambda: "another")
    others.append(cache.place(graph, provider=CPU))
    monkeypatch.undo()
    os.utime(graph, ns=(1, 1))
    others.append(cache.place(graph, provider=CPU))

    assert 5 == len({first, *others})


def test_other_weights_of_the_same_size_and_time_are_another_graph(tmp_path: Path) -> None:
    """Container images give every file the same time, and a network that was trained further has the same size."""
    file, cache = tmp_path / "encoder.onnx", GraphCache(tmp_path, "1.0")
    content, places = bytearray(2 * 1024 * 1024), set()
    for changed in (0, 1, 2):
        content[1_234_567] = changed
        file.write_bytes(content)
        os.utime(file, ns=(0, 0))
        places |= {cache.place(file, provider=CPU) for _ in range(2)}
    assert 3 == len(places)


def test_a_replaced_file_replaces_its_optimised_graph(graph: Path, tmp_path: Path) -> None:
    """The folder does not grow with each version of a file."""
    placement = Placement((CPU,), 1, graphs=graph_cache(tmp_path / "kept"))
    Session(graph, placement)
    before = kept(tmp_path / "kept")
    os.utime(graph, ns=(1, 1))
    Session(graph, placement)

    assert 1 == len(kept(tmp_path / "kept"))
    assert before != kept(tmp_path / "kept")


def test_corrupt_optimised_graph_is_rebuilt(graph: Path, tmp_path: Path, loaded: list[str]) -> None:
    """A file that was cut short costs the time it would have saved, no more."""
    placement = Placement((CPU,), 1, graphs=graph_cache(tmp_path / "kept"))
    Session(graph, placement)
    (name,) = kept(tmp_path / "kept")
    (tmp_path / "kept" / name).write_bytes(b"broken")
    Session(graph, placement)
    Session(graph, placement)

    assert [graph.name, name, graph.name, name] == loaded
    assert [name] == kept(tmp_path / "kept")


def test_a_folder_that_cannot_be_made_is_no_error(graph: Path, tmp_path: Path, loaded: list[str]) -> None:
    """A read-only cache, or one whose place a file has taken, only costs time."""
    (tmp_path / "taken").write_bytes(b"")
    placement = Placement((CPU,), 1, graphs=graph_cache(tmp_path / "taken" / "graphs"))
    Session(graph, placement)

    assert [graph.name] == loaded
    assert stat.S_ISREG((tmp_path / "taken").stat().st_mode)


def test_a_full_disk_is_no_error(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the optimised graph cannot be written, the model loads all the same."""
    real = ort.InferenceSession

    def create(path: Path, options: ort.SessionOptions, **keywords: object) -> object:
        if options.optimized_model_filepath:
            raise RuntimeError("No space left on device")
        return real(path, options, **keywords)

    monkeypatch.setattr(ort, "InferenceSession", create)
    session = Session(graph, Placement((CPU,), 1, graphs=graph_cache(tmp_path / "kept")))

    assert session.run({"x": X})
    assert [] == kept(tmp_path / "kept")


def test_invalid_graph_leaves_no_cached_file(tmp_path: Path) -> None:
    """A broken model fails its load, and nothing of it is kept."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"broken")
    with pytest.raises(ModelLoadError):
        Session(broken, Placement((CPU,), 1, graphs=graph_cache(tmp_path / "kept")))

    assert [] == kept(tmp_path / "kept")


def test_large_and_missing_files_are_not_kept(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of gigabytes would cost more room than the start is worth."""
    cache = GraphCache(tmp_path, "1.0")
    monkeypatch.setattr(graphs, "LARGEST_BYTES", graph.stat().st_size - 1)

    assert cache.place(graph, provider=CPU) is None
    assert cache.place(tmp_path / "missing.onnx", provider=CPU) is None


def test_a_model_that_is_deleted_leaves_no_optimised_graph(graph: Path, tmp_path: Path) -> None:
    """A copy of the weights goes with the weights, those of others stay."""
    cache = graph_cache(tmp_path / "kept")
    other = graph.with_name("other.onnx")
    other.write_bytes(graph.read_bytes())
    for path in (graph, other):
        Session(path, Placement((CPU,), 1, graphs=cache))
    GraphCache(tmp_path / "kept", version="").forget(graph)
    place = cache.place(other, provider=CPU)

    assert place is not None
    assert [place.name] == kept(tmp_path / "kept")
