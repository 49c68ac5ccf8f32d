"""What `focaldet bench` measures: our parts beside what people use, on this machine."""
