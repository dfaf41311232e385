"""Distortions with known human ratings, local damage, and restoration degradations."""
