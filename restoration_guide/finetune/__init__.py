"""Fine-tuning of restorers towards a reward, watched by evidence its judge knows nothing of."""
