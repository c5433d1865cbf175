import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from engines import FullStore, embed, picture, request, run, segment
from fake_model import FakeModel, click

from osamd.engine import Engine
from osamd.errors import (
    EmbeddingExpiredError,
    ImageTooLargeError,
    InvalidPromptError,
    ModelLoadError,
    OverloadedError,
    SettingsError,
)
from osamd.events import Event, ModelLoaded, ModelUnloaded
from osamd.image_sources import ExchangedEmbedding, ImageSource
from osamd.library import catalog
from osamd.library.catalog import Model, load_catalog
from osamd.library.library import Library, open_library
from osamd.segment_requests import SegmentRequest
from osamd.settings import load_settings
from osamd.timings import Timings
from osamd.types import Prompt


def test_one_load_a_request_without_keep_alive() -> None:
    """Where models do not stay, a request loads its model once, for encoding and decoding, and then it goes."""
    events: list[Event] = []

    async def main(engine: Engine) -> None:
        await segment(engine, request(picture()))
        await segment(engine, request(picture(1)))

    run(main, sinks=(events.append,), keep_alive=0.0)
    told = [type(event) for event in events if isinstance(event, ModelLoaded | ModelUnloaded)]
    assert [ModelLoaded, ModelUnloaded] * 2 == told


def test_handles_outlive_their_model() -> None:
    """An image that was embedded is remembered when its model goes; a click on it loads the model again."""
    models: list[FakeModel] = []

    def load(_: Model) -> FakeModel:
        models.append(FakeModel())
        return models[-1]

    async def main(engine: Engine) -> None:
        first = await segment(engine, request(picture()))
        again = await segment(engine, request(first.image.image_id))
        assert again.cache_hit

    run(main, load=load, keep_alive=0.0)
    assert [1, 0] == [len(model.encoded) for model in models]


def test_gigantic_embedding_is_refused() -> None:
    """An embedding that claims a huge image is refused before a mask of that size is made."""

    async def main(engine: Engine) -> None:
        exchanged = ExchangedEmbedding(height=10**6, width=10**6, arrays=())
        asked = SegmentRequest(ImageSource.of_embedding(exchanged), owner="me")
        with pytest.raises(ImageTooLargeError) as caught:
            await engine.segment(asked, Timings())
        assert "image_embedding" == caught.value.field

    run(main)


def test_device_that_is_not_there_fails_the_load() -> None:
    """With ``OSAMD_DEVICE=cuda`` where there is none, requests get the error of a model that does not load."""
    settings = load_settings(device="cuda", preload=())

    async def main() -> None:
        engine = Engine(settings, library=open_library(settings))
        try:
            with pytest.raises(ModelLoadError, match="cuda was requested"):
                await segment(engine, request(picture()))
        finally:
            await engine.close()

    asyncio.run(main())


def test_unknown_model_in_the_allow_list() -> None:
    """A name in ``OSAMD_MODELS`` that nothing has stops the start, and the variable is named."""
    settings = load_settings(models=("nosuch",))
    with pytest.raises(SettingsError, match="OSAMD_MODELS: unknown model 'nosuch'"):
        open_library(settings)


def test_prompt_a_family_cannot_take_is_refused_before_its_model_is_loaded() -> None:
    """A text for a model of clicks, or two boxes for a model of one, must not bring gigabytes of weights to life."""

    def load(row: Model) -> FakeModel:
        pytest.fail(f"{row.name} was loaded")

    async def main(engine: Engine) -> None:
        for prompt, model, part in (
            (Prompt(texts=("cat",)), "sam:latest", "texts"),
            (Prompt(boxes=np.zeros((2, 4), np.float32)), "sam2:large", "boxes"),
            (click(1, 1), "sam3", "points"),
        ):
            with pytest.raises(InvalidPromptError) as caught:
                await segment(engine, request(picture(), prompt, model=model))
            assert f"prompt.{part}" == caught.value.field

    run(main, load=load)


def test_an_embedding_is_labelled_with_the_files_that_made_it(tmp_path: Path) -> None:
    """When a model's file is replaced while it encodes, its handle does not give the old embedding to the new model."""
    encoder = tmp_path / "encoder.onnx"
    encoder.write_bytes(b"old")
    catalog = tmp_path / "models.toml"
    catalog.write_text(
        f'[[model]]\nname = "mine"\nfamily = "sam"\nblobs.encoder.url = "file://{encoder}"\n'
        f'blobs.decoder.url = "file://{encoder}"\n'
    )
    settings = load_settings(preload=())
    models: list[FakeModel] = []

    def replace_file(_: object) -> None:
        if encoder.read_bytes() == b"old":
            encoder.write_bytes(b"newer")

    def load(_: Model) -> FakeModel:
        models.append(FakeModel(on_encode=replace_file))
        return models[-1]

    async def main() -> None:
        library = Library(settings, catalog=load_catalog(catalog), store=FullStore(Path("nowhere")))
        engine = Engine(settings, library=library, load=load)
        try:
            first = await segment(engine, request(picture(), click(5, 5), model="mine"))
            with pytest.raises(EmbeddingExpiredError):
                await segment(engine, request(first.image.image_id, click(5, 5)))
            again = await segment(engine, request(picture(), click(5, 5), model="mine"))
            assert not again.cache_hit
        finally:
            await engine.close()

    asyncio.run(main())
    assert [1, 1] == [len(model.encoded) for model in models]


def test_a_file_that_is_replaced_while_it_is_loaded_labels_no_embedding(tmp_path: Path) -> None:
    """Whoever asks meanwhile is told to try again; put back, the old file does not decode what the new one encoded."""
    encoder, aside = tmp_path / "encoder.onnx", tmp_path / "aside"
    encoder.write_bytes(b"old")
    catalog = tmp_path / "models.toml"
    catalog.write_text(
        f'[[model]]\nname = "mine"\nfamily = "sam"\nblobs.encoder.url = "file://{encoder}"\n'
        f'blobs.decoder.url = "file://{encoder}"\n'
    )
    settings = load_settings(preload=(), cache=tmp_path, embedding_disk_bytes=10**8)
    models: list[FakeModel] = []

    def load(_: Model) -> FakeModel:
        if not models:
            encoder.rename(aside)
            encoder.write_bytes(b"newer")
        models.append(FakeModel())
        return models[-1]

    async def main() -> None:
        library = Library(settings, catalog=load_catalog(catalog), store=FullStore(Path("nowhere")))
        engine = Engine(settings, library=library, load=load)
        try:
            for ask in (
                lambda: embed(engine, picture(), model="mine"),
                lambda: segment(engine, request(picture(), click(5, 5), model="mine")),
            ):
                models.clear()
                with pytest.raises(OverloadedError, match="have just been replaced") as caught:
                    await ask()
                assert caught.value.retry_after_s
                newer = await embed(engine, picture(), model="mine")
                aside.rename(encoder)
                with pytest.raises(EmbeddingExpiredError):
                    await segment(engine, request(newer.image_id, click(5, 5)))
            assert not (await segment(engine, request(picture(), click(5, 5), model="mine"))).cache_hit
        finally:
            await engine.close()

    asyncio.run(main())


def test_files_are_not_stamped_on_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the user's own models may be on a slow network volume."""
    encoder = tmp_path / "encoder.onnx"
    encoder.write_bytes(b"weights")
    rows = tmp_path / "models.toml"
    rows.write_text(
        f'[[model]]\nname = "mine"\nfamily = "sam"\nblobs.encoder.url = "file://{encoder}"\n'
        f'blobs.decoder.url = "file://{encoder}"\n'
    )
    stamp, threads = catalog._stamp, set[threading.Thread]()

    def watched(url: str) -> str:
        threads.add(threading.current_thread())
        return stamp(url)

    monkeypatch.setattr(catalog, "_stamp", watched)
    settings = load_settings(preload=())

    async def main() -> None:
        library = Library(settings, catalog=load_catalog(rows), store=FullStore(Path("nowhere")))
        engine = Engine(settings, library=library, load=lambda _: FakeModel())
        try:
            first = await segment(engine, request(picture(), click(5, 5), model="mine"))
            await segment(engine, request(first.image.image_id, click(6, 6)))
        finally:
            await engine.close()

    asyncio.run(main())

    assert threads
    assert threading.main_thread() not in threads
