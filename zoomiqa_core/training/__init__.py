"""Training: run folders, and the parts shared by the recipes."""
