"""Folders of labelled photos in, batches out.

``formats`` reads the layouts. Every fault is reported, and folders without splits get random ones. Only ``batching``,
``images`` and ``transforms`` use tensors, so that labels can be read without torch (docs/adr/0008).
"""
