"""The operators behind ``zoomiqa_core.data.damage.kadid``, one file per family.

Every operator maps (B, 3, H, W) float32 RGB in [0, 1] to the same shape. Values may leave [0, 1]:
the caller clamps once. Random operators take one ``torch.Generator`` on the CPU per image, so that
an image's result depends on its own generator alone, never on the rest of the batch.
"""
