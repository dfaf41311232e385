"""Fine-tuning of restorers towards a reward, watched by evidence that was never trained on."""
