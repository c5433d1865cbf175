"""Send a photo and a prompt to an osamd server, and save the result.

    python send_request_example.py --image photo.jpg --point 320,240

Set the two constants below, or OSAMD_URL and API_KEY in the environment (which win over the constants), or give
arguments (which win over both). Writes mask.png, overlay.png and reply.json.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from osamd.client import Client, Segmentation
from osamd.errors import (
    AccessError,
    CapacityError,
    ModelUnavailableError,
    OsamdError,
    RequestError,
    UnreachableError,
)

# Update these: your server's address (https://<your-app-name>.fly.dev for Fly.io) and its key.
API_ENDPOINT = "http://127.0.0.1:11368/api/generate"
API_KEY = "YOUR_API_KEY"

PLACEHOLDER_KEY = "YOUR_API_KEY"


def parse_arguments() -> argparse.Namespace:
    """Arguments over environment over constants."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Send a photo and a prompt to an osamd server.")
    parser.add_argument("--url", default=os.environ.get("OSAMD_URL") or API_ENDPOINT, help="URL of the server")
    parser.add_argument("--api-key", default=os.environ.get("API_KEY") or API_KEY, help="better set API_KEY")
    parser.add_argument("--model", help="model name (default: the built-in model)")
    parser.add_argument("--image", type=Path, default=here / "examples" / "cat.jpg", help="the photo")
    parser.add_argument("--point", action="append", default=[], metavar="X,Y", help="a click on the object")
    parser.add_argument("--background", action="append", default=[], metavar="X,Y", help="a click outside it")
    parser.add_argument("--box", metavar="X1,Y1,X2,Y2", help="a box around it")
    parser.add_argument("--text", action="append", default=[], help="words, for models that take them")
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="S", help="seconds to wait for a starting server (60)"
    )
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="output folder (default: current)")
    return parser.parse_args()


def numbers(text: str) -> tuple[float, ...]:
    """``"10,20"`` as (10.0, 20.0)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SystemExit(f"expected numbers separated by commas, such as 320,240; got {text!r}") from None


def ask(client: Client, arguments: argparse.Namespace) -> Segmentation:
    """Send one request; the server validates the numbers."""
    clicks = [(numbers(point), 1) for point in arguments.point]
    clicks += [(numbers(point), 0) for point in arguments.background]
    return client.segment(
        arguments.image,
        model=arguments.model,
        # None if nothing was given: the client rejects an empty list.
        points=[point for point, _ in clicks] or None,
        labels=[label for _, label in clicks] or None,
        box=numbers(arguments.box) if arguments.box else None,
        texts=arguments.text or None,
    )


def save(found: Segmentation, image: Path, folder: Path) -> list[Path]:
    """Write the first mask, the overlay and the JSON; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "reply.json"]
    written[0].write_text(json.dumps(found.raw, indent=2) + "\n")
    masks = [item.mask_png for item in found.annotations if item.mask is not None]
    if masks:
        mask_file, overlay_file = folder / "mask.png", folder / "overlay.png"
        mask_file.write_bytes(masks[0])
        written.append(mask_file)
        try:
            overlay = draw_overlay(image, masks)
        except OSError as error:
            # Such as HEIC, which the server reads.
            print(f"no overlay: Pillow cannot read {image}: {error}", file=sys.stderr)
        else:
            overlay_file.write_bytes(overlay)
            written.append(overlay_file)
    return written


def draw_overlay(image: Path, masks: list[bytes]) -> bytes:
    """The photo with the masks over it, as PNG."""
    import io  # noqa: PLC0415 - only used here

    from PIL import Image, ImageOps  # noqa: PLC0415 - only used here

    with Image.open(image) as opened:
        # Masks match the upright image, so apply the photo's EXIF orientation.
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    tint = Image.new("RGB", photo.size, (0, 114, 178))
    for data in masks:
        mask = Image.open(io.BytesIO(data)).convert("L").resize(photo.size)
        photo.paste(tint, mask=mask.point([value // 2 for value in range(256)]))
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()


def explain(error: OsamdError) -> str:
    """What went wrong, and what to do about it."""
    if isinstance(error, AccessError):
        return f"403, the key is missing or wrong: {error}\nSet API_KEY to the server's key."
    if isinstance(error, UnreachableError):
        return f"No connection: {error}\nIs the server running, and is --url right?"
    if isinstance(error, RequestError):
        return f"{error.status}, the request is invalid: {error}"
    if isinstance(error, ModelUnavailableError):
        return f"{error.status}, the server does not have this model: {error}"
    if isinstance(error, CapacityError):
        return f"{error.status}, the server is busy or starting, try again later: {error}"
    return f"{error.status}, server error: {error}\nSee the server's log for details."


def main() -> int:
    """Send the request, save the result, and explain errors."""
    arguments = parse_arguments()
    api_key = None if arguments.api_key == PLACEHOLDER_KEY else arguments.api_key
    try:
        with Client(arguments.url, api_key=api_key, patience_s=max(0.0, arguments.patience)) as client:
            found = ask(client, arguments)
        written = save(found, arguments.image, arguments.output)
    except OsamdError as error:
        print(explain(error), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(": ".join(str(part) for part in (error.filename, error.strerror or error) if part), file=sys.stderr)
        return 1

    print(f"Success: {found.model}, {len(found.annotations)} object(s) in {found.width} x {found.height} pixels")
    for item in found.annotations:
        print(f"  box {item.box}" + (f", score {item.score:.2f}" if item.score is not None else ""))
    for path in written:
        print(f"  wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
