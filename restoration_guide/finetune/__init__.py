"""Fine-tuning of restorers towards a reward, with independent checks for reward hacking."""
