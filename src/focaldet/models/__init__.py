"""The network (backbone, pyramid, head) and the post-processing of its outputs. No losses, no targets."""
