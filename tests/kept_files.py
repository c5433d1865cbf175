"""Files of embeddings, looked for while a server writes."""

import os
from pathlib import Path


def kept_embeddings(folder: Path) -> list[Path]:
    """Embeddings on the disk. Unlike ``rglob``, this may meet a temporary folder that is gone the next moment."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names if name.endswith(".npz")]
