"""The judges, the gate and the picker inside other people's programs."""
