"""Coverage-guided bytes into the parsing of requests and prompts: python fuzz_bodies.py [libFuzzer's flags] [seeds].

Five bytes say what is made of the others: the kind of body, how many of them are the query, and which part of the
rest is repeated how often, so that a few bytes become a large body. Whatever comes in, a request or a documented
refusal comes out, in a time that grows with the bytes and no faster.
"""

import sys
import time
from collections.abc import Sequence

import atheris

with atheris.instrument_imports(include=["osamd.wire", "osamd.server.doors", "python_multipart"]):
    from osamd.server.doors import qupath, x_anylabeling
    from osamd.server.doors.cvat import bodies as cvat
    from osamd.server.doors.cvat.functions import functions
    from osamd.server.doors.label_studio import bodies as label_studio
    from osamd.server.doors.roboflow import bodies as roboflow
    from osamd.wire import parsing
    from osamd.wire.schemas import GenerateBody

from osamd.errors import RequestError
from osamd.library.library import open_library
from osamd.server.asks import Ask
from osamd.server.bodies import RawBody
from osamd.server.guard.negative_regions import NegativeRegions
from osamd.settings import load_settings
from osamd.types import Prompt

CONTENT_TYPES = (
    "application/json",
    "multipart/form-data; boundary=seam",
    "image/png",
    "application/x-www-form-urlencoded",
    "",
)
SETTINGS = load_settings(cvat_texts=("cat",))
LIBRARY = open_library(SETTINGS)
FUNCTIONS = functions(LIBRARY.catalog, SETTINGS)
NEGATIVE = NegativeRegions()


def predicted(body: RawBody, function: str) -> Ask[label_studio.How]:
    """What Label Studio's door makes of a body."""
    model = FUNCTIONS[function].model
    return label_studio.prediction(body, SETTINGS, model=model, negative=NEGATIVE, owner="me")


# Bodies of other tools' protocols; a further door's is a line here.
TOOLS = (
    lambda body: roboflow.clicks(body, SETTINGS, default="builtin"),
    lambda body: roboflow.concepts(body, SETTINGS),
    lambda body: roboflow.sam_clicks(body, SETTINGS),
    lambda body: roboflow.image_to_embed(body, SETTINGS, default="builtin"),
    lambda body: qupath.clicks(body, SETTINGS),
    lambda body: qupath.concepts(body, SETTINGS),
    lambda body: x_anylabeling._ask(LIBRARY, body, SETTINGS),
    lambda body: cvat.invocation(body, SETTINGS, function=FUNCTIONS["builtin"]),
    lambda body: cvat.invocation(body, SETTINGS, function=FUNCTIONS["sam3"]),
    lambda body: predicted(body, "builtin"),
    lambda body: predicted(body, "sam3"),
)
KINDS = len(CONTENT_TYPES) + len(TOOLS)
HEAD_BYTES = 5
# Of a repeated body.
MOST_BYTES = 2_000_000
MOST_TIMES = 1 << 17
# Instrumented, the slowest kinds take a fifth of this: 30,000 strings, 2,048 parts, a form of a megabyte.
MOST_S, MOST_S_A_BYTE = 1.0, 1e-6
# Something else may have been collected, or compiled, in between.
ATTEMPTS = 3


def prompts_of(kind: int, query: str, raw: bytes) -> Sequence[Prompt] | None:
    """The prompts of a body of one of the kinds: of osamd's own API by content type, then those of tools."""
    if kind >= len(CONTENT_TYPES):
        ask = TOOLS[kind - len(CONTENT_TYPES)](RawBody([raw], "application/json", "", "", None))
        return ask.prompts
    parsed = parsing.parse_body(raw, CONTENT_TYPES[kind], query, GenerateBody, None, MOST_BYTES)
    return parsed.fields.to_prompts(SETTINGS)


def body_of(data: bytes) -> tuple[int, str, bytes]:
    """Kind, query and body that some bytes stand for."""
    kind, query_bytes, exponent, first, last = data[:HEAD_BYTES]
    kind %= KINDS
    rest = data[HEAD_BYTES:]
    query, raw = rest[:query_bytes].decode("latin-1"), rest[query_bytes:]
    start, end = sorted((first * len(raw) // 255, last * len(raw) // 255))
    unit = raw[start:end]
    room = (MOST_BYTES - len(raw)) // max(1, len(unit))
    times = max(1, min(1 << exponent % 18, room, MOST_TIMES))
    return kind, query, raw[:start] + unit * times + raw[end:]


def parse(data: bytes) -> None:
    """One input."""
    if len(data) < HEAD_BYTES:
        return
    kind, query, raw = body_of(data)
    bound_s = MOST_S + MOST_S_A_BYTE * len(raw)
    taken_s = [bound_s + 1.0]
    while len(taken_s) <= ATTEMPTS and min(taken_s) > bound_s:
        start = time.thread_time()
        check(kind, query, raw)
        taken_s.append(time.thread_time() - start)
    if min(taken_s) > bound_s:
        raise AssertionError(f"{len(raw)} bytes take {min(taken_s):.2f} s")


def check(kind: int, query: str, raw: bytes) -> None:
    """Parse a body, and see that a refusal is short and a prompt well-formed."""
    try:
        prompts = prompts_of(kind, query, raw)
    except RequestError as error:
        if len(str(error)) > 1000 or len(error.field or "") > 300:
            raise AssertionError("a message without an end") from error
        return
    for prompt in prompts or ():
        if prompt.points.shape != (len(prompt.point_labels), 2) or prompt.boxes.shape[1] != 4:
            raise AssertionError(prompt)


if __name__ == "__main__":
    atheris.Setup(sys.argv, parse)
    atheris.Fuzz()
