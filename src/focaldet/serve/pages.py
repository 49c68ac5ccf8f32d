"""The two web pages, one to try the model and one with the API reference. Each is a single file."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from focaldet.photos.draw import class_color

_TEMPLATES = Path(__file__).parent / "templates"


def try_page(name: str, class_names: Sequence[str], least: Sequence[float]) -> HTMLResponse:
    """The page to try the model: drop a photo and see its boxes.

    Args:
        least: lowest score of a box of each class, until the slider is moved.
    """
    colors = [class_color(i) for i in range(len(class_names))]
    model = {"names": list(class_names), "colors": colors, "least": [round(one, 6) for one in least]}
    model["score"] = round(min(least), 2)
    return _page("try.html", (_TEMPLATES / "try.js").read_text(encoding="utf-8"), name=name, model=model)


def api_page(schema: dict[str, Any], address: str) -> HTMLResponse:
    """The API reference, like FastAPI's own page but without scripts from the network."""
    return _page("api.html", "", schema=schema, address=address)


def _page(template: str, script: str, **context: Any) -> HTMLResponse:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template(template).render(
        style=Markup((_TEMPLATES / "serve.css").read_text(encoding="utf-8")), script=Markup(script), **context
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})
