"""Zoom-IQA models that run in this process."""
