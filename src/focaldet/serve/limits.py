"""Limits on the cost of a request."""

from dataclasses import dataclass

from focaldet.checks import InputError, check_range
from focaldet.photos.limits import MAX_PIXELS, MAX_REGION_PIXELS


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on the cost of a request.

    Args:
        megabytes: largest upload, in MB.
        megapixels: largest photo, in million pixels; decoding and scaling takes 10 to 25 bytes of memory per pixel, or
            in windows 3 bytes on the disk.
        seconds: time limit for the start of a request, for receiving its photo, and for the result.
        batch: largest number of photos in a batch.
    """

    megabytes: float = 20.0
    megapixels: float = 40.0
    seconds: float = 30.0
    batch: int = 8

    def __post_init__(self) -> None:
        check_range("max-mb", self.megabytes, 0.001, 2**15)
        check_range("max-megapixels", self.megapixels, 0.001, MAX_REGION_PIXELS / 1e6)
        check_range("timeout", self.seconds, 0.001, 2**16)
        check_range("batch", self.batch, 1, 2**10)

    def check_whole(self) -> None:
        """Raise InputError if photos of this size cannot be decoded as a whole."""
        if self.megapixels * 1e6 > MAX_PIXELS:
            raise InputError(
                f"--max-megapixels {self.megapixels:g}: larger photos than {MAX_PIXELS / 1e6:g} need windows: --tile N"
            )


DEFAULTS = Limits()
"""Limits suitable for photos from a camera or a phone."""
