"""Exported models in use: onnxruntime, NumPy and Pillow, no torch.

A model is used in two steps, so that photos can be prepared on many threads and detected in batches:

    model = OnnxDetector.load("cells.onnx")
    seen = model.prepare(photo)              # (H, W, 3) uint8 RGB -> what the network sees
    (found,) = model.detect([seen])          # photos that the network sees at one size -> boxes in their own pixels
    found = model.predict("photo.jpg")       # both, for a file, a PIL image or an array

``Model`` is that interface; a run folder has it too (``focaldet.Detector``).
"""
