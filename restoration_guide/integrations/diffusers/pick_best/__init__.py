"""The pick of the best image as a block: this folder is what diffusers loads."""
