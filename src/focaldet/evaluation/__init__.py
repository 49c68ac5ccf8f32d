"""Quality of detections: matching, average precision, calibration, statistics. Needs no torch."""
