"""Around every answer: one reading of a request's length, HEAD, careful headers, counters, and an end that arrives."""

import asyncio
import time
from contextlib import suppress

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from focaldet.serve.metrics import Metrics

DRAIN_SECONDS = 5.0
"""For which the rest of a refused upload is received and forgotten. A client that is still sending when its connection
is closed gets no answer, but "connection reset"."""


class Careful:
    """The middleware.

    Args:
        app: what it is around.
        metrics: counts the answers of /predict.
        root_path: below which a proxy shows it, which may cut that path off or keep it.
        seconds: for which a client is waited for, at most.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, root_path: str, seconds: float) -> None:
        self.app, self.metrics, self.root_path = app, metrics, root_path
        self.drain_seconds = min(DRAIN_SECONDS, seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # answered as GET; uvicorn leaves the body out
            scope = {**scope, "method": "GET"}
        path = scope["path"]
        if path.startswith(f"{self.root_path}/"):
            path = path.removeprefix(self.root_path)
        scope = {**scope, "root_path": self.root_path, "path": self.root_path + path}
        start, counted = time.perf_counter(), path == "/predict"
        more_to_come = True

        async def watched() -> Message:
            nonlocal more_to_come
            message = await receive()
            more_to_come = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                if counted:
                    self.metrics.answered(message["status"], time.perf_counter() - start)
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
            elif more_to_come and not message.get("more_body", False):
                await send({**message, "more_body": True})
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.drain_seconds):
                        while more_to_come:
                            await watched()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        names = [name for name, _ in scope["headers"]]
        if b"content-length" in names and b"transfer-encoding" in names:
            # Two readers, of which one goes by the first and one by the second, see two different requests.
            reason = "both Content-Length and Transfer-Encoding; send one of them"
            refusal = JSONResponse({"detail": reason}, 400, {"Connection": "close"})
            await refusal(scope, watched, observed)
            return
        try:
            await self.app(scope, watched, observed)
        except Exception:  # on its way to the log; what the client gets is made outside of here
            if counted:
                self.metrics.answered(500, time.perf_counter() - start)
            raise
