"""Text that others have chosen, cut to a length, with a mark that a reader sees."""

from typing import Final

from schemas import limits

MARK: Final = "… (cut)"


def cut_text(text: str, most: int = limits.REASON_LEN) -> str:
    """`text` of at most `most` characters; one that was longer ends with the mark."""
    return text if len(text) <= most else text[: most - len(MARK)] + MARK
