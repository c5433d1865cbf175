"""Numbers of things in messages."""


def counted(count: int, noun: str) -> str:
    """Such as ``1 photo`` or ``2,000 photos``, for nouns whose plural ends in s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
