"""Coverage-guided bytes into the parsing of requests and prompts: python fuzz_bodies.py [libFuzzer's flags] [seeds].

The first byte chooses JSON, multipart or a bare image, and how many of the following bytes are the query. Whatever
comes in, a request or a documented refusal comes out.
"""

import sys

import atheris

with atheris.instrument_imports(include=["osamd.wire.parsing", "osamd.wire.schemas", "python_multipart"]):
    from osamd.wire import parsing
    from osamd.wire.schemas import GenerateBody

from osamd.errors import RequestError
from osamd.settings import load_settings

CONTENT_TYPES = ("application/json", "multipart/form-data; boundary=seam", "image/png", "")
SETTINGS = load_settings()
MOST_BYTES = 1_000_000


def parse(data: bytes) -> None:
    """One input."""
    if not data:
        return
    content_type = CONTENT_TYPES[data[0] % len(CONTENT_TYPES)]
    cut = 1 + (data[0] >> 2)
    query, raw = data[1:cut].decode("latin-1"), data[cut:]
    try:
        parsed = parsing.parse_body(raw, content_type, query, GenerateBody, None, MOST_BYTES)
        prompts = parsed.fields.to_prompts(SETTINGS)
    except RequestError:
        return
    for prompt in prompts or ():
        if prompt.points.shape != (len(prompt.point_labels), 2) or prompt.boxes.shape[1] != 4:
            raise AssertionError(prompt)


if __name__ == "__main__":
    atheris.Setup(sys.argv, parse)
    atheris.Fuzz()
