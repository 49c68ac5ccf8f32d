"""schemathesis sends valid and invalid requests by the served schema; the schema must name each response."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from listening import listening
from PIL import Image
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from focaldet.runtime.model import Model
from focaldet.serve.app import create_app

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def photo_file(width: int, height: int, kind: str) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(out, kind)
    return out.getvalue()


SIDES = st.integers(1, 200)
for media_type in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
    # What is valid by the schema is a string of bytes; what is valid by its description is a photo.
    schemathesis.openapi.media_type(
        media_type, st.builds(photo_file, SIDES, SIDES, st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]))
    )


@pytest.fixture(scope="module")
def operations(model: Model) -> Iterator[dict[str, schemathesis.APIOperation]]:
    with listening(model) as (host, port):
        schema = schemathesis.openapi.from_url(f"http://{host}:{port}/openapi.json")
        yield {(operation := found.ok()).path: operation for found in schema.get_all_operations()}


@pytest.mark.parametrize(
    ("path", "mode", "expected"),
    [
        ("/predict", GenerationMode.POSITIVE, {200}),
        ("/predict", GenerationMode.NEGATIVE, {200, 422}),  # some of what the schema does not know does no harm
        ("/health", GenerationMode.POSITIVE, {200}),
        ("/metrics", GenerationMode.POSITIVE, {200}),
    ],
)
def test_every_answer_is_one_that_the_schema_names(
    operations: dict[str, schemathesis.APIOperation], path: str, mode: GenerationMode, expected: set[int]
) -> None:
    assert set(operations) == {"/predict", "/health", "/metrics"}
    statuses = set()

    @given(case=operations[path].as_strategy(generation_mode=mode))
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: schemathesis.Case) -> None:
        statuses.add(case.call_and_validate().status_code)

    ask()
    assert statuses <= expected
    assert max(expected) in statuses  # chance decides whether there is a harmless one among the others


@st.composite
def damaged_photos(draw: st.DrawFn) -> bytes:
    """A photo's file, perhaps cut short, with some of its bytes changed."""
    data = bytearray(
        photo_file(draw(SIDES), draw(SIDES), draw(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF"])))
    )
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    for at in draw(st.lists(st.integers(0, max(len(data) - 1, 0)), max_size=12)) if data else ():
        data[at] = draw(st.integers(0, 255))
    return bytes(data)


def test_damaged_photos_are_answered_or_refused(model: Model) -> None:
    statuses = set()
    with TestClient(create_app(model, name="cells")) as client:

        @given(damaged_photos() | st.binary(max_size=300))
        @settings(max_examples=400, deadline=None, database=None)
        def ask(data: bytes) -> None:
            answer = client.post("/predict", content=data)
            assert answer.status_code in (200, 400, 413), answer.text
            assert ("detail" in answer.json()) == (answer.status_code != 200)
            statuses.add(answer.status_code)

        ask()
    assert statuses >= {200, 400}
