"""Training scripts, run from a checkout: `python -m recipes.NAME --config FILE key=value`."""
