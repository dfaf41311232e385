"""Synthetic damage: KADID distortions, local damage, restoration degradations, overlays."""
