"""The bundled diffusion restorer."""
