"""Reads one line of csv, as PostgreSQL writes it."""


def fields_of(line: bytes) -> list[str | None]:
    """Fields of a whole line, with line ends within quotes. An unquoted empty one is None."""
    text = line.decode()
    text = text.removesuffix("\n")
    fields: list[str | None] = []
    at = 0
    while True:
        if text.startswith('"', at):
            end = _closing(text, at + 1)
            fields.append(text[at + 1 : end].replace('""', '"'))
            at = end + 1
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            fields.append(text[at:end] or None)
            at = end
        if at >= len(text):
            return fields
        at += 1


def _closing(text: str, at: int) -> int:
    while True:
        end = text.index('"', at)
        if text[end + 1 : end + 2] != '"':
            return end
        at = end + 2
