"""A focaldet detector for SAHI: ``pip install sahi 'focaldet[train]'`` (or ``'focaldet[onnx]'`` for an exported file).

    from focaldet_sahi import FocaldetModel
    from sahi.predict import get_sliced_prediction

    model = FocaldetModel(model_path="runs/cars", confidence_threshold=0.3)
    result = get_sliced_prediction("photo.jpg", model, slice_height=640, slice_width=640)

SAHI cuts the photo, calls the detector on each slice, and merges by its own rules. ``focaldet predict --tile 640`` does
the same in one stream of batches, keeps the standard deviations of the sides, and does not read a large photo whole.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sahi.models.base import DetectionModel
from sahi.prediction import ObjectPrediction

from focaldet.engine.load import load_model
from focaldet.runtime.model import DetectionArrays, Model


class FocaldetModel(DetectionModel):
    """A run folder or an exported ONNX file as a SAHI detector. ``model_path`` or ``model`` is required."""

    def load_model(self) -> None:
        """Load ``model_path``; each slice is processed whole, since SAHI has already cut it."""
        device = "auto" if self.device is None or Path(self.model_path).is_file() else str(self.device)
        self.set_model(load_model(Path(self.model_path), tile=0, device=device))

    def set_model(self, model: Model, **kwargs: Any) -> None:
        """Use a detector that is already loaded."""
        self.model = model
        self.category_mapping = {str(label): name for label, name in enumerate(model.class_names)}

    def perform_inference(self, image: NDArray[np.uint8]) -> None:
        """Detect in a slice ``(H, W, 3)`` uint8 RGB."""
        (found,) = self.model.detect([self.model.prepare(np.ascontiguousarray(image))])
        self._original_predictions: list[DetectionArrays] = [found.above(self.confidence_threshold)]

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[list[int]] | None = [[0, 0]],  # noqa: B006  SAHI's own defaults
        full_shape_list: list[list[int]] | None = None,
    ) -> None:
        shifts, shapes = _one_each(shift_amount_list), _one_each(full_shape_list)
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=box,
                    category_id=label,
                    category_name=self.category_mapping[str(label)],
                    score=score,
                    shift_amount=shift,
                    full_shape=shape,
                )
                for box, label, score in zip(
                    found.boxes_xyxy.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
                )
            ]
            for found, shift, shape in zip(self._original_predictions, shifts, shapes, strict=True)
        ]


def _one_each(values: Any) -> list[Any]:
    """SAHI gives a list of one pair for one image, or the pair itself, or nothing."""
    if values is None:
        return [None]
    return values if isinstance(values[0], list | tuple) else [values]
