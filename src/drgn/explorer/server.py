"""The web server of the explorer: what the page asks for, as routes below /api."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from drgn.errors import InputError
from drgn.explorer import scenes
from drgn.explorer.guard import Guard, TooLarge, below, body, refused
from drgn.explorer.session import Session, numbers

STATIC = Path(__file__).parent / "static"
LARGEST_REQUEST = 1 << 20
LARGEST_FILE = 256 << 20  # a .star of particles
_SUFFIXES = (".star", ".cs", ".csg", ".npy", ".txt", ".pkl")


def create(session: Session, token: str) -> Starlette:
    """Make the application.

    Parameters
    ----------
    session
        The run.
    token
        What requests must carry in the header X-Drgn-Token.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        yield
        session.jobs.close()

    routes = _Routes(session)
    return Starlette(
        routes=[
            Route("/", lambda _: FileResponse(STATIC / "index.html")),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/api/run", routes.run),
            Route("/api/live", routes.live),
            Route("/api/column/{name:path}", routes.column),
            Route("/api/volume", routes.volume, methods=["POST"]),
            Route("/api/confidence", routes.confidence, methods=["POST"]),
            Route("/api/route", routes.route, methods=["POST"]),
            Route("/api/tilts/{row:int}", routes.tilts),
            Route("/api/images", routes.images, methods=["POST"]),
            Route("/api/selections", routes.selections),
            Route("/api/selections/{name:path}", routes.selection, methods=["GET", "PUT", "DELETE"]),
            Route("/api/selected", routes.selected, methods=["POST"]),
            Route("/api/export/{form}/{name}", routes.export, methods=["POST"]),
            Route("/api/scenes/{name}", routes.scene, methods=["PUT"]),
            Route("/api/jobs", routes.jobs, methods=["GET", "POST"]),
            Route("/api/jobs/{number:int}", routes.job, methods=["GET", "DELETE"]),
            Route("/api/file/{name:path}", routes.file),
        ],
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={InputError: refused, TooLarge: refused},
        lifespan=lifespan,
    )


class _Routes:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.largest_rows = max(LARGEST_REQUEST, 4 * session.n)
        self.largest_scene = LARGEST_REQUEST + scenes.MOST * (1024 + 4 * session.run.box_size**3)

    async def run(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.session.facts))

    async def live(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.session.live))

    async def column(self, request: Request) -> Response:
        name = request.path_params["name"]
        values = await run_in_threadpool(lambda: self.session.required().values(name))
        return _binary(values.astype("<f4").tobytes())

    async def volume(self, request: Request) -> Response:
        data, level = await run_in_threadpool(self.session.volume, await _json(request))
        return _binary(data, {"X-Level": f"{level:.6g}"})

    async def confidence(self, request: Request) -> Response:
        data, found = await run_in_threadpool(self.session.confidence, await _json(request))
        told = ",".join(f"{value:.6g}" for value in (found.low_A, found.high_A, found.window_A))
        return _binary(data, {"X-Low-High-Window": told})

    async def route(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.session.route, await _json(request)))

    async def tilts(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.session.tilts, request.path_params["row"]))

    async def images(self, request: Request) -> Response:
        asked = await _json(request)
        listed = asked.get("rows", [])
        if not isinstance(listed, list) or not all(self.session.is_row(row) for row in listed):
            raise InputError("rows: expected rows of the particle table.")
        rows = np.array(listed, np.int64)
        lowpass_A = numbers([asked.get("lowpass_A", 20)], "lowpass_A").item()
        grey, names = await run_in_threadpool(self.session.decoder.images, rows, lowpass_A)
        shape = ",".join(map(str, grey.shape))
        return _binary(grey.tobytes(), {"X-Shape": shape, "X-Panels": ",".join(names)})

    async def selections(self, _: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.session.selections.listed))

    async def selection(self, request: Request) -> Response:
        kept, name = self.session.selections, request.path_params["name"]
        if request.method == "PUT":
            rows = await self._rows(request)
            await run_in_threadpool(kept.save, name, rows)
        elif request.method == "DELETE":
            kept.remove(name)
        else:
            return _binary((await run_in_threadpool(kept.load, name)).astype("<u4").tobytes())
        return await self.selections(request)

    async def selected(self, request: Request) -> Response:
        """Rows of the particles in a file that the page sends."""
        suffix = Path(request.query_params.get("file", "")).suffix
        if suffix not in _SUFFIXES:
            raise InputError(f"A selection is read from a file that ends in {', '.join(_SUFFIXES)}.")
        data = await body(request, LARGEST_FILE)

        def read() -> np.ndarray:
            self.session.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.session.folder) as folder:
                path = Path(folder) / f"selection{suffix}"
                path.write_bytes(data)
                return self.session.selections.read(path)

        return _binary((await run_in_threadpool(read)).astype("<u4").tobytes())

    async def export(self, request: Request) -> Response:
        form, name = request.path_params["form"], request.path_params["name"]
        rows = await self._rows(request)
        folder = self.session.folder / "exports"
        made = await run_in_threadpool(self.session.selections.export, name, form, rows, folder)
        return JSONResponse(
            {"path": str(made[0]), "files": [p.relative_to(self.session.folder).as_posix() for p in made]}
        )

    async def scene(self, request: Request) -> Response:
        """The volumes that the page shows, for ChimeraX."""
        folder, name = self.session.folder / "chimerax", request.path_params["name"]
        sent = await body(request, self.largest_scene)
        made = await run_in_threadpool(scenes.write, folder, name, sent)
        return JSONResponse({"files": [path.relative_to(self.session.folder).as_posix() for path in made]})

    async def jobs(self, request: Request) -> Response:
        if request.method == "POST":
            await run_in_threadpool(self.session.start, await _json(request))
        return JSONResponse([job.facts() for job in self.session.jobs])

    async def job(self, request: Request) -> Response:
        number = request.path_params["number"]
        jobs = self.session.jobs
        job = await run_in_threadpool(jobs.cancel, number) if request.method == "DELETE" else jobs[number]
        return JSONResponse({**job.facts(), "result": await run_in_threadpool(self.session.result, job)})

    async def file(self, request: Request) -> Response:
        path = below(self.session.folder, request.path_params["name"])
        return FileResponse(path, filename=path.name)

    async def _rows(self, request: Request) -> np.ndarray:
        data = await body(request, self.largest_rows)
        if len(data) % 4:
            raise InputError("Expected rows as 32-bit numbers.")
        return np.frombuffer(data, "<u4").astype(np.int64)


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await body(request, LARGEST_REQUEST) or b"{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError("Expected a JSON object.")
    return found


def _binary(data: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(data, media_type="application/octet-stream", headers=headers)


def serve(session: Session, token: str, port: int, started: Callable[[int], None]) -> None:
    """Serve on the loopback interface until Ctrl-C; `started` is told the port (0 asks for a free one).

    Raises
    ------
    InputError
        The port is taken, or none.
    """
    import socket

    import uvicorn

    if not 0 <= port < 65536:
        raise InputError(f"port={port} cannot be used: expected 0 (one that is free) to 65535.")
    try:  # it listens before the address is told: who opens that at once is not refused
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise InputError(f"port={port} cannot be used ({error.strerror}): give another, or port=0.") from None
    with listener:
        config = uvicorn.Config(create(session, token), log_level="warning", access_log=False)
        started(listener.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listener])
