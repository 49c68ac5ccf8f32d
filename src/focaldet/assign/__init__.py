"""Target assignment: which object each location is trained to predict. No gradients."""
