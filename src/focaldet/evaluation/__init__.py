"""How good detections are: matched with objects, average precision, calibration, statistics. Needs no torch."""
