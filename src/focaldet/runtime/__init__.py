"""Inference with exported models: onnxruntime, NumPy and Pillow, without torch.

Inference has two steps, so that photos can be prepared on many threads and detected in batches:

    model = OnnxDetector.load("cells.onnx")
    seen = model.prepare(photo)              # (H, W, 3) uint8 RGB -> network input
    (found,) = model.detect([seen])          # inputs of one size -> boxes in pixels of each photo
    found = model.predict("photo.jpg")       # both steps, for a file, a PIL image or an array

``Model`` is this interface. ``focaldet.Detector`` implements it for run folders.
"""
