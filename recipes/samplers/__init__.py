"""Samplers of your own for ``recipes.finetune_restorer``: worked examples."""
