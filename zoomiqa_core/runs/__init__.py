"""Run folders, atomic files, processes and random draws."""
