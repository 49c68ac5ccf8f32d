"""The value of ``--augment``: a preset of zoom, crop and colour, and further augmentations."""

from dataclasses import dataclass, field, fields

from focaldet.checks import InputError, near_name


@dataclass(frozen=True)
class Strength:
    """Ranges of a preset. Values are drawn uniformly, the zoom log-uniformly.

    Args:
        zoom: lowest and highest scale relative to the canvas. Below 1 the photo is surrounded by grey, above 1 it is
            cropped.
        stretch: largest factor between the scales of the two axes.
        colour: brightness, contrast and saturation factors are in ``1 ± colour``.
    """

    zoom: tuple[float, float]
    stretch: float
    colour: float


STRENGTHS: dict[str, Strength | None] = {
    "none": None,
    "light": Strength(zoom=(0.85, 1.2), stretch=1.0, colour=0.1),
    "medium": Strength(zoom=(0.7, 1.5), stretch=1.1, colour=0.25),
    "strong": Strength(zoom=(0.5, 2.0), stretch=1.25, colour=0.4),
}
"""Name of a preset -> ranges; ``"none"`` also disables flips."""

DEFAULT_PRESET = "light"


def _switch(usual: float, most: float, meaning: str) -> float:
    """Field of ``Augmentation``, off by default -> its strength unless given, its largest strength, its meaning."""
    return field(default=0.0, metadata={"usual": usual, "most": most, "meaning": meaning})


@dataclass(frozen=True)
class Augmentation:
    """A preset, and the strength of each further augmentation; 0 is off.

    Args:
        preset: a key of ``STRENGTHS``.

    >>> chosen = Augmentation.parse("strong,mosaic,hue=0.02")
    >>> chosen.preset, chosen.mosaic, chosen.hue, chosen.mixup
    ('strong', 0.5, 0.02, 0.0)
    >>> str(chosen), str(Augmentation.parse("copy-paste"))
    ('strong,mosaic=0.5,hue=0.02', 'light,copy-paste=0.5')
    """

    preset: str = DEFAULT_PRESET
    mosaic: float = _switch(0.5, 1, "share of samples composed of four photos")
    mixup: float = _switch(0.15, 1, "share of samples that blend two photos")
    copy_paste: float = _switch(0.5, 1, "share of samples with up to three pasted objects from another photo")
    hue: float = _switch(0.02, 0.5, "largest hue rotation, in full turns")
    rotate: float = _switch(5, 30, "largest rotation, in degrees")
    blur: float = _switch(1, 10, "largest standard deviation of the blur, in pixels; half of the samples")
    noise: float = _switch(
        8, 100, "largest standard deviation of the noise, in grey values of 255; half of the samples"
    )
    jpeg: float = _switch(60, 99, "largest loss of JPEG quality, of 100; half of the samples")
    multi_scale: float = _switch(0.25, 0.5, "largest change of --size, drawn for each batch, as a share of it")

    @classmethod
    def parse(cls, text: str) -> "Augmentation":
        """Read ``PRESET,NAME,NAME=STRENGTH,…``; without a preset, ``light``.

        Raises:
            InputError: a name is unknown or given twice, or a strength is not a number in its range.
        """
        switches = {_spelled(entry.name): entry for entry in fields(cls) if entry.metadata}
        chosen: dict[str, str | float] = {}
        for part in text.split(","):
            name, has_value, value = part.strip().partition("=")
            if name in STRENGTHS and not has_value:
                _add(chosen, "preset", name, "a preset")
            elif name in switches:
                limits = switches[name].metadata
                strength = _number(name, value, limits["most"]) if has_value else limits["usual"]
                _add(chosen, switches[name].name, strength, name)
            elif name in STRENGTHS:
                raise InputError(f"augment: {name} is a preset and has no strength, got {part.strip()!r}")
            else:
                raise InputError(f"augment: unknown name {name!r}; {near_name(name, [*STRENGTHS, *switches])}")
        return cls(**chosen)  # type: ignore[arg-type]

    def __str__(self) -> str:
        strengths = {_spelled(entry.name): getattr(self, entry.name) for entry in fields(self) if entry.metadata}
        return ",".join([self.preset, *(f"{name}={value:g}" for name, value in strengths.items() if value)])

    @property
    def ranges(self) -> Strength | None:
        """Ranges of the preset."""
        return STRENGTHS[self.preset]


NAMES = tuple(entry.name.replace("_", "-") for entry in fields(Augmentation) if entry.metadata)
"""Augmentations besides the preset, as ``--augment`` spells them."""


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _add(chosen: dict[str, str | float], name: str, value: str | float, words: str) -> None:
    if name in chosen:
        raise InputError(f"augment: {words} is given twice")
    chosen[name] = value


def _number(name: str, text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise InputError(f"augment: {name}: expected a strength from 0 to {most:g}, got {text!r}")
    return value
