"""Fidelity of a restored image to its input, or to the clean image."""
