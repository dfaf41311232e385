"""Image-quality datasets with human labels."""
