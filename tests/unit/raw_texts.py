"""Texts of libraries and of the language that nobody who has mistyped something should read."""

from typing import Final

RAW: Final = (
    "Expected `",
    "nable to convert",
    "Traceback",
    "<class",
    "invalid literal",
    "msgspec",
    "cyclopts",
    "Invalid enum",
    "Object missing",
    "NoneType",
    "Error(",
)


def raw_in(text: str) -> list[str]:
    return [each for each in RAW if each in text]
