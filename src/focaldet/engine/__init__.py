"""Training, evaluation and prediction. This module imports nothing, so that drawing works without torch."""
