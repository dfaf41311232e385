"""How each family of image-text-to-text models takes images.

One class per family, in a file of its name; :func:`~.registry.family_of` finds it.
"""
