"""Zoom-IQA: a vision-language judge that zooms in and explains its rating."""
