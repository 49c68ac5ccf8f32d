"""What one request may cost the server."""

from dataclasses import dataclass

from focaldet.checks import check_range


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may cost.

    Args:
        megabytes: of an upload.
        megapixels: of a photo; one takes 10 to 25 bytes of memory while the photo is read and scaled down.
        seconds: until a request has begun, until its photo has been received, and then until it has been answered.
        batch: photos that go through the network together, at most.
    """

    megabytes: float = 20.0
    megapixels: float = 40.0
    seconds: float = 30.0
    batch: int = 8

    def __post_init__(self) -> None:
        check_range("max-mb", self.megabytes, 0.001, 2**11)
        check_range("max-megapixels", self.megapixels, 0.001, 80)
        check_range("timeout", self.seconds, 0.001, 2**16)
        check_range("batch", self.batch, 1, 2**10)


DEFAULTS = Limits()
"""For photos of a camera or a phone."""
