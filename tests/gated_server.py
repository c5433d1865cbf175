"""A real server with the built-in model, in which loading, encoding or decoding waits until a file appears.

python gated_server.py load|encode|decode FILE
"""

import sys
import threading
import time
from pathlib import Path

from osamd.engine import Engine
from osamd.library.catalog import Model
from osamd.library.library import open_library
from osamd.models.base import Adapter
from osamd.models.builtin import Builtin
from osamd.runtime.sessions import Placement
from osamd.server.app import create_app
from osamd.server.process import prepare_process, serve
from osamd.settings import load_settings
from osamd.types import Candidate, Embedding, MaskLogits, Prepared, Prompt

PLACEMENT = Placement(("CPUExecutionProvider",), 1)


def wait_for(gate: Path) -> None:
    """Block this thread until the gate is there; a file beside it tells that a thread has come to it."""
    if not gate.exists():
        gate.with_name(f"{gate.name}-reached").touch()
    while not gate.exists():
        time.sleep(0.01)


def is_warming_up() -> bool:
    """Whether this is the run before the server is ready."""
    return threading.current_thread().name.startswith("osamd-load")


class GatedBuiltin(Builtin):
    """The built-in model, one of whose stages waits."""

    stage = ""
    gate = Path()

    def encode(self, prepared: Prepared) -> Embedding:
        """Wait at the gate, if closed, then encode; not with a window of an image, which has no picture."""
        if self.stage == "encode" and prepared.picture is not None and not is_warming_up():
            wait_for(self.gate)
        return super().encode(prepared)

    def decode(
        self, embedding: Embedding, prompt: Prompt, *, mask_input: MaskLogits | None, multimask: bool
    ) -> list[Candidate]:
        """Wait at the gate, if closed, then decode."""
        if self.stage == "decode" and not is_warming_up():
            wait_for(self.gate)
        return super().decode(embedding, prompt, mask_input=mask_input, multimask=multimask)


def main(stage: str, gate: Path) -> None:
    """Serve until stopped."""
    settings = load_settings()
    prepare_process(settings)
    library = open_library(settings)
    GatedBuiltin.stage, GatedBuiltin.gate = stage, gate

    def load(model: Model) -> Adapter:
        if stage == "load":
            wait_for(gate)
        return GatedBuiltin(library.store.paths(model), PLACEMENT)

    serve(create_app(settings, Engine(settings, library=library, load=load)), settings)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
