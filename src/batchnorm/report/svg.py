"""The text of a drawing, made the same each time and given a name that is read aloud."""

import re
from hashlib import sha256
from html import escape

__all__ = ["tidy"]

# Plotly puts six random digits into every id of a drawing.
_RANDOM = re.compile(r'id="defs-([0-9a-f]{6})"')


def tidy(drawing: str, name: str, title: str, description: str) -> str:
    """Return an SVG with ids that depend on its name alone, a title and a description.

    Args:
        drawing: as plotly exports it.
        name: of the picture; ids are made of it, so that two pictures can stand in one page.
        title, description: what a screen reader says.
    """
    found = _RANDOM.search(drawing)
    mark = sha256(name.encode()).hexdigest()[:6]
    if found:
        # Only where an id is made or used: the digits may also be those of a colour.
        where = r"""(\bid="[a-z]*-?|url\('?#[a-z]*-?|href="#[a-z]*-?)"""
        drawing = re.sub(where + found[1], rf"\g<1>{mark}", drawing)
    words = (
        f'<title id="title-{mark}">{escape(title)}</title><desc id="desc-{mark}">{escape(description)}</desc>'
    )
    spoken = f'<svg role="img" aria-labelledby="title-{mark} desc-{mark}" '
    head, end, body = drawing.partition(">")
    return head.replace("<svg ", spoken, 1) + end + words + body.rstrip() + "\n"
