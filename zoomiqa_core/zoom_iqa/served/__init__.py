"""Zoom-IQA models behind an OpenAI-compatible server."""
