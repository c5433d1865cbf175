"""Drives X-AnyLabeling's own remote client, in its Python; test_x_anylabeling_client.py runs it.

Arguments: the server's URL, the key, a photo, a folder. Prints what the client shows, as JSON.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

URL, KEY, PHOTO, FOLDER = sys.argv[1:5]
POINT = {"type": "point", "data": [225, 150], "label": 1}
# Dragged up-left.
RECTANGLE = {"type": "rectangle", "data": [400, 290, 60, 20], "label": 1}


def told(client: Any, model: str, marks: list[dict[str, Any]], text: str | None = None) -> list[dict[str, Any]]:
    """The shapes for marks or words."""
    client.set_model_id(model)
    client.set_auto_labeling_marks(marks)
    found = client.predict_shapes(object(), PHOTO, text_prompt=text)
    return [
        {
            "label": shape.label,
            "shape_type": shape.shape_type,
            "points": [[point.x(), point.y()] for point in shape.points],
        }
        for shape in found.shapes
    ]


def main() -> None:
    """Ask for models, clicks, a rectangle and words, and with a wrong key."""
    config: Any = importlib.import_module("anylabeling.config")
    client_type = importlib.import_module("anylabeling.services.auto_labeling.remote_server").RemoteServer
    messages: list[str] = []

    def client(key: str) -> Any:
        settings = {"remote_server_settings": {"server_url": URL, "api_key": key}}
        file = Path(FOLDER) / f"rc-{len(key)}.yaml"
        # YAML includes JSON.
        file.write_text(json.dumps(settings), "utf-8")
        config.current_config_file = str(file)
        return client_type(
            {"type": "remote_server", "name": "remote", "display_name": "Remote", "timeout": 60}, messages.append
        )

    good = client(KEY)
    shown = {
        "models": good.get_available_models(),
        "click": told(good, "builtin:latest", [POINT]),
        "rectangle": told(good, "builtin:latest", [RECTANGLE]),
        "words": told(good, "sam3:latest", [], "cat,dog"),
        "wrong model": told(good, "builtin:latest", [], "cat"),
    }
    wrong = client(f"wrong-{KEY}")
    shown["wrong key"] = wrong.get_available_models()
    told(wrong, "builtin:latest", [POINT])
    print(json.dumps(shown | {"messages": messages}))  # noqa: T201


if __name__ == "__main__":
    main()
