"""How the tokens of a reply are sampled, by a local model and by a server alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How the tokens of a reply are sampled. The defaults are those of the released protocol.

    >>> Sampling(temperature=0.5, max_new_tokens=256).top_p
    0.95
    """

    temperature: float = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: float = 0.95
    """Sample from the smallest set of most likely tokens with this probability; 1 keeps all."""
    top_k: int = 50
    """Sample from this many most likely tokens; 0 keeps all."""
    max_new_tokens: int = 1024
    """Maximum length of a reply."""
    repetition_penalty: float = 1.0
    """Penalty on tokens that occur in the prompt or the reply; 1 is none. It is not read from the
    model's ``generation_config.json`` (often 1.05 with Qwen2.5-VL)."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                "expected temperature ≥ 0, 0 < top_p ≤ 1 and top_k ≥ 0, got "
                f"{self.temperature}, {self.top_p}, {self.top_k}"
            )
        if self.max_new_tokens < 1 or not self.repetition_penalty > 0:
            raise ValueError(
                "expected max_new_tokens ≥ 1 and repetition_penalty > 0, got "
                f"{self.max_new_tokens}, {self.repetition_penalty}"
            )
