"""The study: train the steps from cross entropy to the Generalized Focal Loss alike, and measure what each changed."""
