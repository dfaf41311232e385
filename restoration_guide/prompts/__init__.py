"""A judge's words as restoration prompts."""
