"""The network: backbone, pyramid, head, and what turns its raw maps into detections. No losses, no targets."""
