"""Middleware around every response: unambiguous request length, HEAD, security headers, counters, and delivery of the
response to a client that is still sending."""

import asyncio
import time
from contextlib import suppress

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from focaldet.serve.metrics import Metrics

DRAIN_SECONDS = 5.0
"""Seconds for which the rest of a rejected upload is received and discarded. A client that is still sending when its
connection closes sees "connection reset" instead of the response."""


class Careful:
    """The middleware.

    Args:
        app: the application.
        metrics: counts the responses of /predict.
        root_path: path under which a proxy serves it; the proxy may strip the path or keep it.
        seconds: longest time to wait for a client.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, root_path: str, seconds: float) -> None:
        self.app, self.metrics, self.root_path = app, metrics, root_path
        self.drain_seconds = min(DRAIN_SECONDS, seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # treated as GET; uvicorn omits the body
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
            # A proxy that uses one of them and a server that uses the other would see different requests.
            reason = "both Content-Length and Transfer-Encoding; send one of them"
            refusal = JSONResponse({"detail": reason}, 400, {"Connection": "close"})
            await refusal(scope, watched, observed)
            return
        try:
            await self.app(scope, watched, observed)
        except Exception:  # goes on to the log; an outer layer makes the response
            if counted:
                self.metrics.answered(500, time.perf_counter() - start)
            raise
