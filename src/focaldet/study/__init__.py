"""The study: train every step from cross entropy to the Generalized Focal Loss alike and measure its effect."""
