"""VLSBench: instructions whose harm is in the image and not in the text."""
