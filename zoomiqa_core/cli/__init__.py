"""The ``zoomiqa`` program."""
