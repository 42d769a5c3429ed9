"""Cells of csv files that people open in a spreadsheet."""

FORMULA = tuple("=+-@＝＋－＠")  # OWASP, CSV injection


def as_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula, also one that drops spaces or reads full-width signs."""
    return f"'{text}" if text.lstrip()[:1] in FORMULA or text[:1].isspace() else text
