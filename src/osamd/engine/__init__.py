"""The engine: a request becomes masks; lanes, loaded models, remembered images."""

from osamd.engine.engine import Engine

__all__ = ["Engine"]
