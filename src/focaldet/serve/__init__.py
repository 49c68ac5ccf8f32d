"""A detector behind HTTP: a photo in, its boxes as JSON out; and a page to try it on."""
