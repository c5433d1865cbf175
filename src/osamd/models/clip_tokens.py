"""CLIP's tokenizer: the text input of SAM 3 and YOLO-World.

Byte-pair encoding with OpenAI's vocabulary (``clip_vocabulary/README.md``). Texts are split like CLIP's reference code
does, into letters, single digits and other characters, because the models were trained that way.
"""

import functools
import gzip
import html
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Final

import numpy as np

from osamd.errors import InvalidPromptError
from osamd.types import IntArray

START: Final = 49406
END: Final = 49407
BYTES: Final = 256
SHOWN_CHARS: Final = 40
# Tried first wherever a word may begin.
WHOLE: Final = re.compile(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)
# CLIP treats typographic quotes, as phones write them, as plain ones.
PLAIN_QUOTES: Final = str.maketrans("\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", "''''" + '""""')
SPECIAL: Final = {"<|startoftext|>": START, "<|endoftext|>": END}


def tokenize(texts: Sequence[str], context_length: int) -> IntArray:
    """Tokenize texts: a start token, the text's tokens, an end token, and zeros as padding.

    Args:
        texts: T texts; case and white space are normalised, HTML entities are decoded.
        context_length: tokens that the model's text encoder takes.

    Returns:
        (T, context_length) int64.

    Raises:
        InvalidPromptError: a text has too many tokens.
    """
    rows = np.zeros((len(texts), context_length), np.int64)
    for row, text in zip(rows, texts, strict=True):
        tokens = [START, *_encode(text), END]
        if len(tokens) > context_length:
            shown = text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
            raise InvalidPromptError(
                f"the text {shown!r} is too long: it has {len(tokens) - 2} tokens, and this model takes at most"
                f" {context_length - 2}"
            )
        row[: len(tokens)] = tokens
    return rows


def _encode(text: str) -> Iterator[int]:
    # Unescaped twice, as in CLIP: scraped captions are often escaped twice.
    plain = html.unescape(html.unescape(unicodedata.normalize("NFC", text).translate(PLAIN_QUOTES)))
    for word in _words(" ".join(plain.split()).lower()):
        if word in SPECIAL:
            yield SPECIAL[word]
        else:
            yield from _merge(word.encode("utf-8", "replace"))


def _words(text: str) -> Iterator[str]:
    """Split into runs of letters, single digits, and runs of any other characters except white space."""
    at = 0
    while at < len(text):
        whole = WHOLE.match(text, at)
        if whole:
            end = whole.end()
        else:
            kind, end = _kind(text[at]), at + 1
            while end < len(text) and kind != "N" and _kind(text[end]) == kind:
                end += 1
        if not text[at].isspace():
            yield text[at:end]
        at = end


def _kind(character: str) -> str:
    """``L`` for letters, ``N`` for numbers, a space for white space, and nothing for the rest."""
    if character.isspace():
        return " "
    kind = unicodedata.category(character)[0]
    return kind if kind in "LN" else ""


def _merge(word: bytes) -> list[int]:
    """Merge pairs in CLIP's order until no pair of the vocabulary is left."""
    first_bytes, merges = _vocabulary()
    tokens = [first_bytes[byte] for byte in word]
    tokens[-1] += BYTES
    while True:
        known = [merges[pair] for pair in itertools.pairwise(tokens) if pair in merges]
        if not known:
            return tokens
        # Tokens of pairs are numbered by rank, so the smallest is merged first.
        best = min(known)
        joined: list[int] = []
        at = 0
        while at < len(tokens):
            if at + 1 < len(tokens) and merges.get((tokens[at], tokens[at + 1])) == best:
                joined.append(best)
                at += 2
            else:
                joined.append(tokens[at])
                at += 1
        tokens = joined


@functools.cache
def _vocabulary() -> tuple[tuple[int, ...], dict[tuple[int, int], int]]:
    """The token of each byte, and of each pair of tokens that is merged.

    CLIP numbers the bytes first, printable ones before the others, then the bytes that end a word, then the merges.
    Its file represents bytes without a printable character by characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    order = printable + others
    written = [chr(byte) for byte in printable] + [chr(BYTES + index) for index in range(len(others))]
    tokens = {sign: token for token, sign in enumerate(written)}
    tokens |= {f"{sign}</w>": token + BYTES for token, sign in enumerate(written)}
    merges: dict[tuple[int, int], int] = {}
    packed = resources.files("osamd.models").joinpath("clip_vocabulary", "merges.txt.gz").read_bytes()
    for line in gzip.decompress(packed).decode("utf-8").splitlines():
        left, right = line.split(" ")
        merges[tokens[left], tokens[right]] = tokens[left + right] = len(tokens)
    return tuple(order.index(byte) for byte in range(BYTES)), merges
