"""The ``restoration-guide`` program."""
