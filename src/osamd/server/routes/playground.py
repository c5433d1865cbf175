"""The playground: a static page and its ES modules, served from the package.

The page is public, like the API docs: it contains no data, and prompts for the key itself.
"""

from importlib import resources
from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from osamd.server.operations import Operations
from osamd.server.routes.packaged import packaged_file

operations = Operations()

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


@operations.head("/playground")
@operations.get("/playground")
async def page(request: Request) -> Response:
    """The page itself."""
    return packaged_file(FOLDER, PAGE, request, HEADERS)


@operations.head("/playground/{name:path}")
@operations.get("/playground/{name:path}")
async def file(request: Request) -> Response:
    """A file of the page."""
    name = request.path_params["name"]
    if not name:
        # Links are relative to the page's path without a trailing slash; so is this redirect, to work behind a prefix.
        return RedirectResponse("../playground", status_code=308)
    return packaged_file(FOLDER, name, request, HEADERS)
