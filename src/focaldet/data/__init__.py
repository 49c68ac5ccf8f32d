"""Folders of labelled photos in, batches out.

``formats`` reads the layouts, every fault is reported, and folders without splits get random ones. Only ``batching``,
``images`` and ``transforms`` use tensors, so that labels can be read without torch (docs/adr/0008).
"""

from focaldet.data.check import DataReport, check_folder
from focaldet.data.convert import convert_folder
from focaldet.data.digits import make_digits
from focaldet.data.folder import read_folder, read_labels
from focaldet.data.ignore import ignore_classes, ignored_regions
from focaldet.data.records import DataFolder, Fault, ImageRecord
from focaldet.photos.images import read_header

__all__ = [
    "DataFolder",
    "DataReport",
    "Fault",
    "ImageRecord",
    "check_folder",
    "convert_folder",
    "ignore_classes",
    "ignored_regions",
    "make_digits",
    "read_folder",
    "read_header",
    "read_labels",
]
