"""Detections as GeoJSON, in the coordinates of their source file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from focaldet.photos.georeference import Georeference
from focaldet.runtime.model import DetectionArrays
from focaldet.runtime.results import coco_results

_DIGITS = 9
"""Decimal digits of coordinates: finer than a millimetre, in metres or in degrees."""


def geojson(found: DetectionArrays, class_names: Sequence[str], place: Georeference) -> dict[str, Any]:
    """A FeatureCollection with a polygon for each box and the same values as ``predictions.json``.

    The member ``crs`` names the coordinate system as GDAL and QGIS read it; RFC 7946 allows only degrees (EPSG:4326),
    which need no such member.
    """
    x1, y1, x2, y2 = found.boxes_xyxy.astype(np.float64).T
    rings = place.points(np.stack([x1, y2, x2, y2, x2, y1, x1, y1, x1, y2], axis=1).reshape(-1, 5, 2))
    if np.linalg.det(place.affine[:, :2]) > 0:  # counterclockwise on the map
        rings = rings[:, ::-1]
    features = []
    for entry, ring, label in zip(coco_results(0, found), rings.round(_DIGITS).tolist(), found.labels, strict=True):
        values = {name: value for name, value in entry.items() if name not in ("image_id", "category_id")}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"class": class_names[label], **values},
            }
        )
    document: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if place.epsg not in (None, 4326):
        document["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{place.epsg}"}}
    return document
