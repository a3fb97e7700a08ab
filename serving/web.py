"""The web page at `/`: static files, without a build step, under a strict Content-Security-Policy; and other pages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

FOLDER = Path(__file__).parent / "page"
HEADERS = {
    # Only the page's own files, and only these kinds.
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
    # Cached, but validated by ETag each time, so that scripts of two versions are never mixed.
    "Cache-Control": "no-cache",
}


class Files(StaticFiles):
    """Static files with HEADERS."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return one file, or 304 if the browser has it."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let the web pages of `origins` call an application; unchanged without origins."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Request-Timeout", "Traceparent", "Tracestate", "X-Request-ID"],
        expose_headers=["Cache-Status", "Retry-After", "Server-Timing", "X-Request-ID"],
        max_age=3600,
    )


def routes() -> list[BaseRoute]:
    """Return the routes `/` and `/page/...`."""
    # In an editable installation this folder is reached through a symbolic link.
    files = Files(directory=FOLDER, follow_symlink=True)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return [
        Route("/", index, methods=["GET"]),
        Mount("/page", GZipMiddleware(files)),
    ]
