"""``osamd run``: segment one photo without a server."""

import argparse
import asyncio
import base64
import sys
from typing import Final

from osamd.cli.files import check_output, read_image, write_output
from osamd.cli.models import bring, own_library
from osamd.engine import Engine
from osamd.engine.everything import check_everything, collect
from osamd.engine.prompts import check_masks
from osamd.errors import InvalidRequestError
from osamd.image_sources import ImageSource
from osamd.pixels.careful_decoder import CarefulDecoder
from osamd.pixels.everything import EverythingResult
from osamd.pixels.masks import encode_color_png, overlay
from osamd.segment_requests import SegmentRequest, SegmentResult
from osamd.settings import Settings, load_settings
from osamd.timings import Timings
from osamd.types import Cleaning, Decode
from osamd.wire.everything import check_labels
from osamd.wire.plain_fields import body_from_pairs
from osamd.wire.replies import cleaned, finish, included, no_limit, write_reply, write_union
from osamd.wire.schemas import GenerateBody

# Flags that are fields of a request.
GIVEN: Final = ("model", "box", "prompt", "mask_format", "fill_holes", "drop_islands", "smooth", "simplify")

# Longest time limit of everything mode.
MOST_SECONDS: Final = 3600.0

# What --cutout means: only the object, cropped to its bounding box.
CUTOUT: Final = [("mask_format", "cutout"), ("mask_layout", "crop")]


def run(arguments: argparse.Namespace) -> int:
    """Segment, and write the requested output."""
    settings = load_settings()
    pairs = [("point", point) for point in arguments.point]
    pairs += [("background", point) for point in arguments.background]
    pairs += [("text", text) for text in arguments.text]
    given = ((name, getattr(arguments, name)) for name in GIVEN)
    pairs += [(name, value) for name, value in given if value is not None]
    if arguments.mask_input is not None:
        pairs.append(("mask_input", base64.b64encode(read_image(arguments.mask_input)).decode("ascii")))
    if arguments.everything:
        pairs.append(("everything", "true"))
    if arguments.cutout:
        _check_cutout(arguments)
        pairs += CUTOUT
    body = body_from_pairs([*pairs, ("multimask", str(arguments.multimask))])
    cleaning = body.to_cleaning()
    _check_outputs(arguments)
    data = read_image(arguments.image)

    is_picture = arguments.output is not None or not arguments.json
    with CarefulDecoder() as decode:
        result = _segment(data, body, settings, decode, needs_masks=is_picture)
    if isinstance(result, EverythingResult) and result.stopped != "all_points":
        print(f"osamd: stopped by {result.stopped}; masks found: {len(result.annotations)}", file=sys.stderr)
    for note in result.image.notes:
        print(f"osamd: {note}", file=sys.stderr)
    if arguments.json:
        # JSON is UTF-8, whatever the terminal's encoding.
        write_output(b"".join(finish(write_reply(result, body, settings, no_limit))) + b"\n", "-")
    if is_picture:
        wants_overlay = arguments.overlay or (
            arguments.output is None and arguments.prompt is not None and not arguments.cutout
        )
        png = (
            _overlay_png(data, result, cleaning, settings)
            if wants_overlay
            else b"".join(write_union(result, body, settings, no_limit))
        )
        write_output(png, arguments.output or "-")
    if not result.annotations:
        print("osamd: nothing found", file=sys.stderr)
    return 0


def _check_cutout(arguments: argparse.Namespace) -> None:
    for flag, value in (("--overlay", arguments.overlay), ("--mask-format", arguments.mask_format)):
        if value:
            raise InvalidRequestError(f"--cutout and {flag} cannot be combined: they write different pictures")


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Reject outputs that cannot be written, before any work."""
    if arguments.output is not None:
        check_output(arguments.output, "-o", "image/png", must_exist=True)
        if arguments.json and arguments.output == "-":
            raise InvalidRequestError("--json and -o - both write to standard output: use only one")
    elif not arguments.json and sys.stdout.isatty():
        raise InvalidRequestError("refusing to write a PNG to the terminal: redirect it, or use -o or --json")


def _segment(
    data: bytes, body: GenerateBody, settings: Settings, decode: Decode, *, needs_masks: bool
) -> SegmentResult:
    request = SegmentRequest(
        image=ImageSource.of_bytes(data),
        model=body.model,
        prompts=body.to_prompts(settings),
        multimask=bool(body.multimask),
        owner="cli",
        refinable=False,
        with_embedding=bool(included(body, settings)),
        needs_masks=needs_masks,
        with_pixels=body.mask_format == "cutout",
    )

    everything = body.to_everything(settings, most_seconds=MOST_SECONDS)
    if everything is not None and needs_masks:
        check_labels(everything)
    library = own_library()
    model = library.resolve(body.model)
    if everything is not None:
        check_everything(model.capabilities, model=model.name)
    if needs_masks:
        # Checked before pulling the model in vain.
        check_masks(model.capabilities, model=model.name)
    if not library.store.is_present(model) and settings.pull == "auto":
        bring(model, library.store)

    async def segment() -> SegmentResult:
        engine = Engine(settings, library=library, decode=decode)
        try:
            if everything is None:
                return await engine.segment(request, Timings())
            return await collect(
                engine.everything(request, everything, Timings(), are_kept=True), with_embedding=request.with_embedding
            )
        finally:
            await engine.close()

    return asyncio.run(segment())


def _overlay_png(data: bytes, result: SegmentResult, cleaning: Cleaning, settings: Settings) -> bytes:
    with CarefulDecoder() as decode:
        pixels = decode(data, max_pixels=settings.max_image_pixels).pixels
    found = (cleaned(item, cleaning).mask for item in result.annotations)
    masks = [mask for mask in found if mask is not None]
    if isinstance(result, EverythingResult):
        # Small ones on top.
        masks.sort(key=lambda mask: -mask.inside.size)
    return encode_color_png(overlay(pixels, masks))
