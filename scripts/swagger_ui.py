"""Puts Swagger UI's files into the wheel, for ``/docs``, so that no server needs the package that they come from."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SwaggerUI(BuildHookInterface[BuilderConfig]):
    """Takes them from fastapi-offline, with which wheels are built. A checkout finds them there itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them to the files of a wheel."""
        if version == "editable":
            return
        spec = find_spec("fastapi_offline")
        if spec is None or spec.origin is None:
            raise RuntimeError("expected fastapi-offline, which has Swagger UI's files: install the group build")
        for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
            build_data["force_include"][str(Path(spec.origin).parent / "static" / name)] = f"osamd/server/docs/{name}"
