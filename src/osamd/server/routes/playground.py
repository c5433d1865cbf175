"""The playground: a static page and its ES modules, served from the package.

The page is public, like the API docs: it contains no data, and prompts for the key itself.
"""

from importlib import resources
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from osamd.server.routes.packaged import packaged_file

router = APIRouter(include_in_schema=False)

PAGE = "index.html"
HEADERS = {
    # Nothing from other hosts, nothing inline; photos and masks are drawn from blobs that the page creates.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # Revalidated each time and answered 304, so that an upgraded server is never used with modules of an older page.
    "Cache-Control": "no-cache",
}
FOLDER = Path(str(resources.files("osamd.server").joinpath("playground")))


@router.head("/playground")
@router.get("/playground")
async def page(request: Request) -> Response:
    """The page itself."""
    return packaged_file(FOLDER, PAGE, request, HEADERS)


@router.head("/playground/{name:path}")
@router.get("/playground/{name:path}")
async def file(request: Request, name: str) -> Response:
    """A file of the page."""
    if not name:
        # Links are relative to the page's path without a trailing slash; so is this redirect, to work behind a prefix.
        return RedirectResponse("../playground", status_code=308)
    return packaged_file(FOLDER, name, request, HEADERS)
