"""A judge measured against people's ratings and votes."""
