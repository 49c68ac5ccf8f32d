"""`focaldet bench`: the losses beside common implementations, and the parts of a training step, on this machine."""
