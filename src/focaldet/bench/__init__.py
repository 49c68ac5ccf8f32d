"""`focaldet bench`: compare the losses with common implementations, and time the parts of a training step."""
