"""The study: train every step from cross entropy to Generalized Focal Loss under equal settings, and compare."""
