"""The model card: the description of an exported file, as JSON under one key of its metadata."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from focaldet import __version__
from focaldet.checks import InputError, check_range
from focaldet.files import parse_json
from focaldet.photos.resize import MAX_SIZE, Resize
from focaldet.records.calibration import parse_calibration
from focaldet.schema import check_schema

FORMAT = 1
"""Version of the JSON and of the outputs it describes; increased if older versions of focaldet cannot use new files."""

KEY = "focaldet"
"""Key in the metadata."""

Outputs = Literal["detections", "sites", "raw"]


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything needed to use an exported model.

    Args:
        method: method of the detector.
        class_names: name of each label.
        size: size of the network input, see ``Resize``.
        resize: how a photo is scaled to it.
        strides: strides of the pyramid levels, pixels.
        outputs: ``"detections"``: boxes, scores, labels, standard deviations of the sides, and their count;
            ``"sites"``: boxes and scores of all locations, without NMS; ``"raw"``: raw maps of the head.
        score_threshold: candidates with a lower score are dropped.
        nms_iou: a box is dropped if its IoU with a better one of its class exceeds this; ``None`` disables NMS.
        max_detections: largest number of detections per image.
        last_pixel: see ``DetectionArrays.to_photo``.
        int8: whether convolutions use 8 bits.
        calibration: content of the run's calibration.json without its report, see ``focaldet.records.calibration``.
        tile: side of the windows that the network was trained on, pixels of the photo; ``None``: whole photos.
        largest_px: longer side of the largest objects that it was trained on, pixels of the photo, if known.
    """

    method: str
    class_names: tuple[str, ...]
    size: int
    resize: Resize
    strides: tuple[int, ...]
    outputs: Outputs
    score_threshold: float
    nms_iou: float | None
    max_detections: int
    last_pixel: bool = False
    int8: bool = False
    calibration: dict[str, Any] | None = None
    tile: int | None = None
    largest_px: int | None = None

    def with_room(self, max_detections: int | None) -> "ModelCard":
        """A copy that allows this many detections per image; ``None``: unchanged.

        Raises:
            InputError: the file was exported for fewer detections.
        """
        if max_detections is None:
            return self
        check_range("max_detections", max_detections, 1)
        if self.outputs == "detections" and max_detections > self.max_detections:
            raise InputError(
                f"exported for {self.max_detections} detections per photo, not {max_detections}; export it again with "
                f"--max-detections {max_detections}"
            )
        return replace(self, max_detections=max_detections)

    def to_json(self) -> str:
        """The text stored in a file."""
        return json.dumps({"format": FORMAT, "focaldet": __version__, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Read the text stored in a file.

        Raises:
            InputError: the text is broken or of a newer format.

        >>> card = ModelCard(method="gfl", class_names=("cell",), size=320, resize=Resize(), strides=(8,),
        ...                  outputs="raw", score_threshold=0.02, nms_iou=0.6, max_detections=100)
        >>> ModelCard.from_json(card.to_json()) == card
        True
        """
        try:
            values = dict(parse_json(text))
            made_by = values.pop("focaldet", "?")
            number = values.pop("format")
        except (ValueError, TypeError, KeyError) as error:
            raise InputError("its model card is broken; export it again") from error
        if number != FORMAT:
            raise InputError(
                f"format {number!r}, written by focaldet {made_by}; this focaldet {__version__} reads format {FORMAT}: "
                "install that version, or export again with this one"
            )
        try:
            return cls(**_checked(values))
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(f"its model card is broken ({error}); export it again") from error


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The checked fields of a card. Files may come from anywhere, so every value is validated."""
    values = {"calibration": None, "tile": None, "largest_px": None, **values}  # older files have none
    values = {field.name: values[field.name] for field in fields(ModelCard)}
    check_schema("", values, ModelCard)
    for name in ("class_names", "strides"):
        if not values[name]:
            raise ValueError(f"{name}: expected at least one")
    check_range("size", values["size"], 1, MAX_SIZE)
    check_range("score_threshold", values["score_threshold"], 0, 1)
    check_range("nms_iou", 0 if values["nms_iou"] is None else values["nms_iou"], 0, 1)
    check_range("max_detections", values["max_detections"], 1)
    check_range("tile", values["tile"] or 1, 1, MAX_SIZE)
    check_range("largest_px", values["largest_px"] or 0, 0)
    if values["calibration"] is not None:
        calibration = parse_calibration(values["calibration"])
        if list(calibration.class_names) != values["class_names"]:
            raise ValueError("calibration: its class names are not those of the model")
    return values | {
        "class_names": tuple(values["class_names"]),
        "strides": tuple(values["strides"]),
        "resize": Resize(**values["resize"]),
    }
