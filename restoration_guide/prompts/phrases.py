"""A judge's sentences as phrases that are safe inside a prompt.

A judge's words are data: it may quote what is written in the picture, and what is written there may
be meant for a model to obey. A phrase therefore keeps only plain words. Quoted text, addresses,
template tokens and every sign that weights or schedules a prompt (in Automatic1111's, ComfyUI's,
compel's or Midjourney's syntax) are taken out; a sentence that speaks to a model rather than of the
picture is dropped whole. That is told by its wording, so it holds for the known ways of saying it:
a sentence that describes a content to add, in words like those for quality, cannot be told apart.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

MAX_CHARS = 400
"""Longest sentence looked at; a longer one is dropped whole."""
MAX_WORDS = 30
"""Longest phrase kept."""

_QUOTED = re.compile(
    r"""
    "[^"]*(?:"|$) | “[^”“]*(?:[”“]|$) | „[^“”]*(?:[“”]|$) | «[^»]*(?:»|$) | `[^`]*(?:`|$)
    | 「[^」]*(?:」|$) | 『[^』]*(?:』|$) | ‘[^‘]*?(?:’(?!\w)|$) | (?<!\w)'[^']*(?:'(?!\w)|$)
    """,
    re.VERBOSE,
)
"""Text in quotation marks; one left open runs to the end."""

_TOKENS = re.compile(
    r"""
    <[^<>]*(?:>|$) | \{[^{}]*(?:\}|$) | \[[^\[\]]*(?:\]|$)    # <lora:x:1> {a|b} [a:b:9]
    | (?:https?:|ftp:|www\.)\S*                               # addresses
    | \S*@\S* | \b[\w-]+\.(?:com|org|net|io|ai|co|dev|info|xyz)\b\S*
    | \b(?:embedding|lora|lyco|hypernet|ti):\S*               # embedding:name
    | __\w*__                                                 # wildcards
    | :{1,2}\s*[-+]?(?:\d+\.?\d*|\.\d+)                       # weights: (word:1.3), word::2
    | (?<!\w)-{2,}\w*(?:\s+\d[\d:.]*)?                        # --ar 16:9
    """,
    re.VERBOSE | re.IGNORECASE,
)

_KEYWORD = re.compile(r"\b(?:AND|OR|NOT|BREAK|ADD(?:COMM|BASE|ROW|COL))\b")
"""Operators of prompt languages, which heed their case."""

_TEMPLATE = re.compile(
    r"<\|[^|<>]*\|?>|\[/?(?:INST|SYS)\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|</?think|#{3}",
    re.IGNORECASE,
)
"""Tokens of chat templates: no sentence about a picture holds one."""

_TO_A_MODEL = re.compile(
    r"""
    \b(?:ignore|disregard|forget|override|bypass)\b.*
      \b(?:instructions?|prompts?|rules?|guidelines?|previous|above|prior|earlier|everything)\b
    | \b(?:obey|follow)\b.*\b(?:instructions?|prompts?|rules?|commands?)\b
    | \b(?:system|assistant|developer|user|human)\s*(?::|prompt\b|message\b|role\b)
    | \b(?:your?|jailbreak|as\s+an\s+ai|pretend|act\s+as|new\s+instructions?)\b
    | (?:忽略|无视|忘记).*(?:指令|提示|规则|以上|之前)
    | (?:^|[,.;:!?]\s*|\b(?:and|then|please|now|instead|also)\s+)
      (?: (?:draw|write|generate|create|insert|replace|swap|transform|depict|visit|download|execute
            |delete)\b
        | (?:add|change|click|make|output|paint|place|print|put|render|say|send|spell|turn)
          \s+(?:an?|another|her|him|it|me|on|out|some|the|them|this)\b )
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""What speaks to a model, or asks for other content."""

_PLAIN = re.compile(r"[^\w ,.'’%&/×²°–-]|_")
_LOOSE = re.compile(r"(?<!\w)[-–'’]+|[-–'’]+(?!\w)")
"""Hyphens and apostrophes that join no letters."""
_EDGES = " ,.-–/'’&"

_NEGATION = re.compile(
    r"(?:please\s+)?(?:avoid(?:ing)?|no|not|without|never|don['’]?t|do\s+not|remov(?:e|ing)"
    r"|reduc(?:e|ing)|prevent(?:ing)?|eliminat(?:e|ing)|minimi[sz](?:e|ing))\s+"
    r"(?:(?:any|all|the|more|adding|introducing|creating|having|of)\s+)*",
    re.IGNORECASE,
)


class Phrase(NamedTuple):
    """A phrase, or why there is none."""

    text: str
    """Plain words; empty when dropped."""
    dropped: str = ""
    """``"empty"``, ``"too_long"`` or ``"instruction"``; empty when kept."""


def plain_phrase(sentence: str) -> Phrase:
    """A judge's sentence in plain words, on one line, without an end mark.

    What is left is looked at again until nothing changes, as taking one thing out may bring two
    others together. A phrase that came out goes in again unchanged.
    """
    if len(sentence) > MAX_CHARS:
        return Phrase("", "too_long")
    text, before = sentence, ""
    while text != before:
        before = text
        if _TEMPLATE.search(text := _unquoted(text)):
            return Phrase("", "instruction")
        text = _KEYWORD.sub(lambda found: found[0].lower(), _TOKENS.sub(" ", text))
        if _TO_A_MODEL.search(text.strip()):
            return Phrase("", "instruction")
        text = _LOOSE.sub(" ", _PLAIN.sub(" ", text.replace(";", ",")))
        text = " ".join(text.split()).replace(" ,", ",").strip(_EDGES)
    if not any(char.isalpha() for char in text):
        return Phrase("", "empty")
    if len(text.split()) > MAX_WORDS:
        return Phrase("", "too_long")
    return Phrase(text)


def _unquoted(text: str) -> str:
    """Compatibility forms as plain letters, without invisible characters and quoted text."""
    return _QUOTED.sub(" ", "".join(map(_visible, unicodedata.normalize("NFKC", text))))


def named_fault(phrase: str) -> str | None:
    """The fault a phrase tells to avoid; None when it tells of no such thing.

    Prompts need the fault by itself: encoders heed the noun more than the negation before it.

    >>> named_fault("Avoid any blur on the face")
    'blur on the face'
    """
    found = _NEGATION.match(phrase)
    return phrase[found.end() :] if found and found.end() < len(phrase) else None


def same_words(phrase: str) -> tuple[str, ...]:
    """What two phrases share that say the same but for case, signs and spaces."""
    return tuple(re.findall(r"\w+", phrase.casefold()))


def _visible(char: str) -> str:
    """A space for a control character, nothing for invisible ones, which may split words."""
    category = unicodedata.category(char)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return "" if category.startswith("C") else char
