"""`focaldet bench`: the losses compared with common implementations on this machine."""
