"""A judge measured against people's ratings."""
