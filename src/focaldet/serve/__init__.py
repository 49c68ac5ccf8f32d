"""Serve a detector over HTTP: photos in, boxes as JSON out, and a web page to try it."""
