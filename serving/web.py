"""The page at `/`: static files without a build step, under a Content-Security-Policy that leaves nothing open."""

from pathlib import Path
from typing import Any

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "page"
HEADERS = {
    # Of the page's own files, these kinds only; of others, nothing.
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "font-src 'self'",
            "connect-src 'self'",
            "form-action 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    # Kept, but asked for again with the ETag each time: a script of one version never meets one of another.
    "Cache-Control": "no-cache",
}


class Files(StaticFiles):
    """The folder's files with the headers above."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """One file, or 304 where the browser has it."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def routes() -> list[BaseRoute]:
    """`/` and `/page/...`."""
    # An editable installation has links in the place of files.
    files = Files(directory=FOLDER, follow_symlink=True)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return [
        Route("/", index, methods=["GET"]),
        Mount("/page", GZipMiddleware(files)),
    ]
