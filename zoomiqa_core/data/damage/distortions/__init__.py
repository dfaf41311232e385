"""The distortion operators of ``zoomiqa_core.data.damage.kadid``, one file per family.

Every operator maps (B, 3, H, W) float32 RGB in [0, 1] to the same shape; the caller clamps the
result to [0, 1]. Random operators take one CPU ``torch.Generator`` per image, so that a result does
not depend on the rest of the batch.
"""
