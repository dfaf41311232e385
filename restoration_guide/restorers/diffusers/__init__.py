"""Any supported diffusers pipeline as a restorer."""
