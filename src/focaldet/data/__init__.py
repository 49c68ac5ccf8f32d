"""Folders of labelled photos in, batches out.

COCO, Pascal VOC and YOLO layouts; every fault is named; splits are made where the layout gives none.
"""

from focaldet.data.batching import Batch, DetectionDataset, Sample, TrainingSampler, collate
from focaldet.data.check import DataReport, check_folder
from focaldet.data.digits import make_digits
from focaldet.data.folder import read_folder, read_labels
from focaldet.data.ignore import ignore_classes, ignored_regions
from focaldet.data.images import read_image
from focaldet.data.records import DataFolder, Fault, ImageRecord
from focaldet.data.transforms import EvalTransform, TrainTransform
from focaldet.photos.images import read_header

__all__ = [
    "Batch",
    "DataFolder",
    "DataReport",
    "DetectionDataset",
    "EvalTransform",
    "Fault",
    "ImageRecord",
    "Sample",
    "TrainTransform",
    "TrainingSampler",
    "check_folder",
    "collate",
    "ignore_classes",
    "ignored_regions",
    "make_digits",
    "read_folder",
    "read_header",
    "read_image",
    "read_labels",
]
