"""The quality gate as a block: this folder is what diffusers loads."""
