"""mmdetection's own detectors, if it is installed (see tests/tools/mmdet_fixtures.py), against their imports."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmdet_record import TOOL

from focaldet.data.images import read_image
from focaldet.engine.detector import Detector
from focaldet.importing.run import import_checkpoint

PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_photos" / "images"
MISSING = [name for name in ("mmdet", "mmcv", "mmengine", "cv2") if not find_spec(name)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: see tests/tools/mmdet_fixtures.py"),
    pytest.mark.filterwarnings("ignore"),  # of a package that is not maintained
]


def theirs(model, photo):
    """What mmdetection finds in a photo: with its resizing, normalisation and padding, in pixels of the photo."""
    import cv2
    from mmdet.structures import DetDataSample

    pixels = read_image(photo).permute(1, 2, 0).numpy()[..., ::-1]
    height, width = pixels.shape[:2]
    scale = min(1333 / max(height, width), 800 / min(height, width))
    new = int(width * scale + 0.5), int(height * scale + 0.5)
    seen = cv2.resize(pixels, new, interpolation=cv2.INTER_LINEAR)
    factor = (new[0] / width, new[1] / height)
    sample = DetDataSample(
        metainfo={
            "img_shape": new[::-1],
            "ori_shape": (height, width),
            "scale_factor": factor,
            "batch_input_shape": None,
        }
    )
    tensor = torch.from_numpy(seen.transpose(2, 0, 1).copy())
    data = model.data_preprocessor({"inputs": [tensor], "data_samples": [sample]})
    with torch.no_grad():
        return model.predict(data["inputs"], data["data_samples"], rescale=True)[0].pred_instances


@pytest.mark.parametrize("name", list(TOOL.CONFIGS))
def test_detections_in_photos_are_mmdetections(name, tmp_path):
    if not PHOTOS.is_dir():
        pytest.skip("needs coco_photos beside the repository, in ../shared/data")
    TOOL.stand_in()
    model, text = TOOL.build(name)
    from mmengine.logging import HistoryBuffer

    content = {
        "meta": {"cfg": text, "dataset_meta": {"classes": ("a", "b", "c")}, "mmengine_version": "0.10.7"},
        "state_dict": model.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer([1.0, 2.0], [1, 1])}},
    }
    torch.save(content, tmp_path / "their.pth", _use_new_zipfile_serialization=False)  # as its tools publish
    detector = Detector.load(import_checkpoint(tmp_path / "their.pth", tmp_path / "run", say=print))
    assert detector.class_names == ("a", "b", "c")
    for photo in sorted(PHOTOS.rglob("*.jpg"))[:2]:
        expected, found = theirs(model, photo), detector.predict(photo)
        assert len(found) == len(expected.scores) > 3
        same = (found.boxes_xyxy - expected.bboxes[:, None]).abs().amax(dim=2) < 0.02
        same &= (found.labels == expected.labels[:, None]) & ((found.scores - expected.scores[:, None]).abs() < 1e-4)
        # Rounding may decide one in a hundred otherwise: the networks add in another order.
        assert len(found) - int(same.any(dim=1).sum()) <= len(found) // 100
