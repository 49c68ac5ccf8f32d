"""The web application: check, decode and batch photos and return their boxes; bad requests get a 4xx with a reason."""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from focaldet import __version__
from focaldet.checks import InputError, check_range
from focaldet.photos.images import no_size_warnings, read_header, read_photo
from focaldet.runtime.model import DetectionArrays, Model, NetworkInput
from focaldet.runtime.selection import Selection, select_by_score
from focaldet.serve.batching import Batcher
from focaldet.serve.careful import Careful
from focaldet.serve.limits import DEFAULTS, Limits
from focaldet.serve.metrics import CONTENT_TYPE, Metrics
from focaldet.serve.pages import api_page, try_page
from focaldet.serve.uploads import Uploads, check_pixels
from focaldet.serve.windows import Found, WindowedPhotos, receive_file, upload_file
from focaldet.system.cores import cores

MAX_REQUESTS = 64
"""Number of photos that are decoded or wait for the network; further ones get a 503 at once, so that memory stays
bounded."""

LOST_BY_CURL = b"\0\r\n"
"""Bytes that ``curl -d @photo.jpg`` removes; a body that contains any of them was sent unaltered."""


Side4 = Annotated[list[float], Field(min_length=4, max_length=4)]


class Box(BaseModel):
    """One object."""

    box_xyxy: Side4 = Field(description="left, top, right and bottom, in pixels of the displayed photo")
    score: float = Field(ge=0, le=1, description="confidence that the object exists")
    label: int = Field(ge=0, description="index of the class")
    name: str = Field(description="name of the class")
    side_std_px: Side4 | None = Field(
        description="standard deviation of each side in pixels: left, top, right, bottom; null if the method has none"
    )
    raw_score: float | None = Field(
        default=None, ge=0, le=1, description="the network's own score; only if scores are calibrated"
    )
    side_low_px: Side4 | None = Field(
        default=None, description="lower ends of the bands that contain the true sides; only with --coverage"
    )
    side_high_px: Side4 | None = Field(default=None, description="upper ends of the bands")


class Prediction(BaseModel):
    """The objects of a photo, best first."""

    width: int = Field(description="width in pixels of the displayed photo")
    height: int = Field(description="height in pixels of the displayed photo")
    boxes: list[Box] = Field(description="best first")
    problem: str | None = Field(
        default=None, description="part of a large photo that could not be read; absent otherwise"
    )


class Health(BaseModel):
    """The served model."""

    status: str = Field(description="ok")
    model: str = Field(description="name of the run folder or file")
    class_names: list[str] = Field(description="name of each label")
    focaldet: str = Field(description="version of the server")


class Refusal(BaseModel):
    """An error."""

    detail: str = Field(description="the reason, in one line")


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": why}
    for status, why in {
        400: "the body is not a photo, is damaged, or the upload ended early; or its length is stated in two ways",
        408: "the photo did not arrive in time, or too slowly",
        413: "too many bytes or pixels",
        415: "an HTML form or a compressed body; send the photo as the body itself",
        422: "a parameter is invalid",
        503: "too many requests in progress, or no result in time; try again",
    }.items()
}
_PHOTO = {
    "required": True,
    "description": "the photo file: JPEG, PNG, WebP, TIFF, BMP, GIF, PPM or AVIF; the stated content type is ignored",
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
    },
}
_PATHS = "POST /predict with the photo file as the body, and GET /, /docs, /openapi.json, /health and /metrics"


def create_app(
    model: Model,
    *,
    name: str,
    score: float = 0.3,
    select: Selection | None = None,
    limits: Limits = DEFAULTS,
    workers: int = 1,
    root_path: str = "",
    cors: str | None = None,
) -> FastAPI:
    """Create the application for a model.

    Args:
        model: the detector.
        name: name of the model, for people.
        score: default confidence threshold for requests without one.
        select: selects the boxes of requests without one, instead of ``score``; adds the bands.
        limits: limits on requests.
        workers: number of batches that run in parallel.
        root_path: path under which a proxy serves it, such as ``/cells``.
        cors: origin whose pages may call it from a browser, such as ``https://example.org``, or ``*`` for all.

    Raises:
        InputError: the threshold, the path or the origin is not valid.
    """
    check_range("score", score, 0, 1)
    chosen = select_by_score(len(model.class_names), score) if select is None else select
    if not re.fullmatch(r"(/[\w.~-]+)*", root_path, re.ASCII):
        raise InputError(f"--root-path: expected a path such as /cells, got {root_path!r}")
    if cors is not None and not re.fullmatch(r"\*|https?://[\w.:\[\]-]+", cors, re.ASCII):
        raise InputError(f"--cors: expected an origin such as https://example.org, or *, got {cors!r}")
    if model.tiling is None:
        limits.check_whole()
    metrics = Metrics()
    batcher = Batcher(model, limits.batch, metrics.batch, workers=workers)
    decoders = ThreadPoolExecutor(cores(), "decode")
    answering: set[Request] = set()
    uploads = Uploads(limits)
    windowed = None if model.tiling is None else WindowedPhotos(model, model.tiling, batcher, decoders, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        network = asyncio.create_task(batcher.run())
        with no_size_warnings(), suppress(asyncio.CancelledError):  # a second Ctrl-C
            yield
        network.cancel()
        decoders.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title=f"focaldet: {name}",
        version=__version__,
        description="Detects objects in photos and estimates the uncertainty of each side of each box.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from the network
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Careful, metrics=metrics, root_path=root_path, seconds=limits.seconds)
    if cors is not None:
        app.add_middleware(CORSMiddleware, allow_origins=[cors], allow_methods=["GET", "POST"], allow_headers=["*"])
    app.add_exception_handler(404, _wrong_path)
    app.add_exception_handler(405, _wrong_path)
    app.add_exception_handler(RequestValidationError, _wrong_parameter)
    app.add_exception_handler(Exception, _own_fault)

    @app.post(
        "/predict",
        response_class=JSONResponse,
        responses={200: {"model": Prediction, "description": "the boxes, best first"}, **_REFUSALS},
        openapi_extra={"requestBody": _PHOTO},
        summary="Detect the objects in a photo",
    )
    async def predict(
        request: Request,
        least: Annotated[
            float | None,
            Query(
                alias="score",
                ge=0,
                le=1,
                description="confidence threshold: lowest score of a box (default: the server's)",
            ),
        ] = None,
    ) -> JSONResponse:
        """The body is the photo file itself, as sent by `curl --data-binary @photo.jpg`."""
        for unknown in request.query_params.keys() - {"score"}:
            raise HTTPException(422, f"unknown parameter {unknown[:40]!r}; only 'score' is supported")
        try:
            found = await (in_windows(request, windowed) if windowed else whole(request))
        except TimeoutError:
            raise HTTPException(
                503, f"no result within {limits.seconds:g} s; try again", {"Retry-After": "1"}
            ) from None
        except asyncio.CancelledError:
            raise HTTPException(503, "the server is shutting down") from None
        finally:
            answering.discard(request)
        boxes = chosen(found.boxes, found.photo_size, score=least)
        answer = _answer(boxes, found.photo_size, model.class_names)
        return JSONResponse(answer | ({"problem": found.problem} if found.problem else {}))

    def begin(request: Request) -> None:
        if len(answering) >= MAX_REQUESTS:
            raise HTTPException(503, f"{MAX_REQUESTS} requests are being answered; try again", {"Retry-After": "1"})
        answering.add(request)

    async def whole(request: Request) -> Found:
        """Detect in the photo of a request as a whole."""
        received = bytearray()
        await uploads.receive(request, received.extend)
        begin(request)
        seen = await prepared(bytes(received), request.headers.get("content-type", ""))
        received.clear()  # before waiting for the network
        async with asyncio.timeout(limits.seconds):
            return Found(await batcher.detect(seen), seen.photo_size, "")

    async def in_windows(request: Request, windowed: WindowedPhotos) -> Found:
        """Detect in the photo of a request window by window; its bytes are never in memory as a whole."""
        with upload_file() as (file, path):
            await receive_file(uploads, request, file)
            begin(request)
            try:
                async with asyncio.timeout(limits.seconds):
                    return await windowed.detect(path)
            except InputError as error:
                file.seek(0)
                hint = _hint(file.read(4096), request.headers.get("content-type", ""))
                raise HTTPException(400, f"{error}{hint}") from None

    async def prepared(data: bytes, content_type: str) -> NetworkInput:
        """Decode the photo of a request for the network."""
        try:
            async with asyncio.timeout(limits.seconds):
                return await asyncio.get_running_loop().run_in_executor(decoders, _decoded, data, model, limits)
        except InputError as error:
            raise HTTPException(400, f"{error}{_hint(data, content_type)}") from None

    @app.get("/health", summary="Show the served model")
    async def health() -> Health:
        return Health(status="ok", model=name, class_names=list(model.class_names), focaldet=__version__)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}},
        summary="Metrics for Prometheus",
    )
    async def read_metrics() -> Response:
        return Response(metrics.text(len(answering)), media_type=CONTENT_TYPE)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return try_page(name, model.class_names, chosen.least_chances())

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return api_page(app.openapi(), str(request.base_url))

    return app


def _hint(data: bytes, content_type: str) -> str:
    """Guess why the body is not a photo."""
    if data.startswith(b"data:") or (len(data) > 64 and re.fullmatch(rb"[\w+/=\s-]+", data[:4096])):
        return "; the body is text, perhaps base64; send the bytes of the photo file"
    if data.lstrip()[:1] in (b"{", b"["):
        return "; the body is JSON; send the bytes of the photo file"
    by_curl = content_type.startswith("application/x-www-form-urlencoded")
    if data and by_curl and not any(byte in data for byte in LOST_BY_CURL):
        return "; curl -d removes bytes from a file, use --data-binary"
    return ""


def _decoded(data: bytes, model: Model, limits: Limits) -> NetworkInput:
    """Decode and scale a photo; the header is checked for the number of pixels before anything is decoded."""
    if not data:
        raise InputError("the body is empty; send the photo file as the body")
    header = read_header(io.BytesIO(data))
    check_pixels(header, limits)
    return model.prepare(read_photo(io.BytesIO(data)))


def _answer(found: DetectionArrays, photo_size: tuple[int, int], names: tuple[str, ...]) -> dict[str, Any]:
    stds = found.side_std_px
    return {
        "width": photo_size[1],
        "height": photo_size[0],
        "boxes": [
            {
                "box_xyxy": [round(v, 3) for v in found.boxes_xyxy[i].tolist()],
                "score": round(float(found.scores[i]), 5),
                "label": int(found.labels[i]),
                "name": names[found.labels[i]],
                "side_std_px": None if stds is None else [round(v, 3) for v in stds[i].tolist()],
                **_certainty(found, i),
            }
            for i in range(len(found))
        ],
    }


def _certainty(found: DetectionArrays, i: int) -> dict[str, Any]:
    """Additional fields of a calibrated box."""
    more: dict[str, Any] = {}
    if found.raw_scores is not None:
        more["raw_score"] = round(float(found.raw_scores[i]), 5)
    for key in ("side_low_px", "side_high_px"):
        if (sides := getattr(found, key)) is not None:
            more[key] = [round(v, 3) for v in sides[i].tolist()]
    return more


def _wrong_parameter(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]  # score is the only parameter
    return JSONResponse({"detail": f"score: expected a number from 0 to 1, got {str(first['input'])[:40]!r}"}, 422)


def _wrong_path(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    what = "unknown path" if error.status_code == 404 else f"this path does not accept {request.method[:10]}"
    return JSONResponse({"detail": f"{what}; use {_PATHS}"}, error.status_code, error.headers)


def _own_fault(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "internal error; see the server log"}, 500)
