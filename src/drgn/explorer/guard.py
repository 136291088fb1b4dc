"""What keeps others out: the token, the Host and Origin headers, the size of a request, no file outside.

The server listens on the loopback interface only. A page of another site can still send requests there, and
a name of that site can be made to point there, so a request must name a loopback host, come from the server's
own page, and, for all that is not a static file, carry the token that was printed when the server started.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from drgn.errors import InputError

TOKEN_HEADER = "x-drgn-token"
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; connect-src 'self' blob: data:; worker-src 'self' blob:;"
    " font-src 'self' data:;"
    " object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)  # regl compiles its draw commands with Function(), hence unsafe-eval; no other host is named


class TooLarge(Exception):
    """A request has more bytes than may be sent."""


class Guard:
    """Middleware that refuses what does not come from the page.

    Parameters
    ----------
    app
        What is guarded.
    token
        What each request for data must carry.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer with 403 or 413, or hand on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self.refusal(request)
        if refusal is not None:
            await JSONResponse({"error": refusal}, status_code=403)(scope, receive, send)
            return

        async def with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                more = {
                    b"content-security-policy": _POLICY.encode(),
                    b"x-content-type-options": b"nosniff",
                    b"referrer-policy": b"no-referrer",
                    b"cache-control": b"no-cache",
                }
                message["headers"] = [*message["headers"], *more.items()]
            await send(message)

        await self.app(scope, receive, with_headers)

    def refusal(self, request: Request) -> str | None:
        """Why a request is refused; None where it is not."""
        host = request.headers.get("host", "")
        if not _LOOPBACK.fullmatch(host):
            return f"The host {host[:100]!r} is not this machine: open http://127.0.0.1:PORT/."
        origin = request.headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "Requests from pages of other sites are refused."
        # the path that routes are found by, not that of request.url, of which the Host header is a part
        if request.scope["path"].startswith("/api/") and not secrets.compare_digest(
            request.headers.get(TOKEN_HEADER, "").encode(), self.token.encode()
        ):
            return "The token is missing or wrong: open the address that drgn explore printed."
        return None


async def body(request: Request, limit: int) -> bytes:
    """Read the body of a request, of so many bytes at most; raises TooLarge."""
    told = request.headers.get("content-length") or "0"
    if not (told.isascii() and told.isdigit() and len(told) < 20):
        raise InputError("The length of the request is no number.")
    if int(told) > limit:
        raise TooLarge(limit)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(limit)
        parts.append(part)
    return b"".join(parts)


def below(folder: Path, name: str) -> Path:
    """A file below a folder.

    Raises
    ------
    InputError
        It is not below it, links followed, or is not there.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        found = path.is_relative_to(root) and path.is_file()
    except (ValueError, OSError, RuntimeError):  # a zero byte, a name that is too long, links in a circle
        found = False
    if not found:
        raise InputError(f"There is no file {name[:200]} among the results of the explorer.")
    return path


def refused(request: Request, error: Exception) -> Response:
    """Answer a mistake by its sentence."""
    if isinstance(error, TooLarge):
        text = f"The request is larger than the {int(error.args[0]):,} bytes that are taken."
        return JSONResponse({"error": text}, status_code=413)
    return JSONResponse({"error": str(error)}, status_code=400)
