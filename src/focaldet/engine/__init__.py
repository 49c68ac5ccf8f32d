"""Train, evaluate, predict: what a run is made of. Nothing is imported here, so that drawing needs no torch."""
