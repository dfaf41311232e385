"""Teachers that write GR-IQA rationales."""
