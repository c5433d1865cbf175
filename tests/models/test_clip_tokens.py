import gzip
import unicodedata
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from osam._models.yoloworld.clip import tokenize as osam_tokenize

from osamd.errors import InvalidPromptError
from osamd.models.clip_tokens import tokenize

# Without numbers and underscores, where osam splits otherwise than CLIP.
TEXTS = [
    "",
    " ",
    "cat",
    "A Photo of a CAT",
    "  white \t space \n\n everywhere ",
    "don't, we've, they'll, I'd, it's, we're, I'm, can't",
    "!!'s o'sd'll ''s '",
    "black-and-white (striped) cat... really?!",
    "naïve café, smörgåsbord, ÜNÏCÖDÉ, Straße, İstanbul",
    "日本語のテキスト",
    "한국어 텍스트",
    "مرحبا بالعالم",
    "हिन्दी में नमस्ते",
    "Привет, мир",
    "😀😀 👍🏽 👨‍👩‍👧 🤷🏻‍♀️",
    "&lt;b&gt;bold&lt;/b&gt; &amp;amp; &quot;quoted&quot;",
    "<|startoftext|> in the <|endoftext|> middle",
    "supercalifragilisticexpialidocious",
    "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
    "\x00\x01\x7f",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_osams(text: str) -> None:
    """Token for token what osam sends to its text encoders."""
    assert osam_tokenize([text], context_length=200).tolist() == tokenize([text], 200).tolist()


@given(text=st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_osams_with_numbers_and_marks_apart(text: str) -> None:
    """Where CLIP splits off every digit and underscore, spaces make osam split there as well."""
    plain = unicodedata.normalize("NFC", text)
    apart = "".join(f" {sign} " if unicodedata.category(sign)[0] == "N" else sign for sign in plain)
    if any(sign in plain for sign in "_&\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f'") or "<|" in plain:
        return
    assert osam_tokenize([apart], context_length=400).tolist() == tokenize([text], 400).tolist()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("route 66", "route 6 6"),
        ("snake_case", "snake _ case"),
        ("٣٤", "٣ ٤"),
        ("x²", "x ²"),
        ("it\u2019s a \u201ccat\u201d", 'it\'s a "cat"'),
        ("cafe\u0301", "café"),
    ],
)
def test_texts_are_split_as_clip_splits_them(written: str, meant: str) -> None:
    """Digits and underscores stand alone; typographic quotes and loose accents are plain ones, as in CLIP."""
    assert osam_tokenize([meant]).tolist() == tokenize([written], 77).tolist()


def test_known_sentence() -> None:
    """A sentence whose tokens are known from elsewhere."""
    expected = [[49406, 320, 1125, 539, 320, 2368, 49407, 0]]
    assert expected == tokenize(["a photo of a cat"], 8).tolist()


def test_context_is_a_limit() -> None:
    """As many tokens as fit are taken, one more is refused with the limit and a shortened text."""
    assert tokenize(["cat " * 6], 8)[0, -1] == 49407
    with pytest.raises(InvalidPromptError, match=r"'cat cat .*\.\.\.' is too long: it has 50 tokens, .* at most 6"):
        tokenize(["fine", "cat " * 50], 8)


def test_vocabulary_is_clips() -> None:
    """Our file holds the merges that CLIP reads from the original, and no more."""
    original = resources.files("osam._models.yoloworld.clip").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    ours = resources.files("osamd.models").joinpath("clip_vocabulary", "merges.txt.gz").read_bytes()
    expected = gzip.decompress(original).decode().split("\n")[1 : 48894 + 1]
    assert expected == gzip.decompress(ours).decode().splitlines()
