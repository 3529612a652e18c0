"""Scripts and styles that the page carries with it, ready to stand in an HTML document."""

from functools import cache
from importlib import resources

from itables.utils import read_package_file
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from batchnorm.report.figure import script_json

__all__ = ["plotly_file", "plotly_script", "stylesheet", "table_widget", "text_asset"]


def text_asset(name: str) -> Markup:
    """Return a script or style of our own."""
    text = (resources.files("batchnorm.report") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)


def stylesheet() -> Markup:
    """Return the style of the page."""
    return text_asset("style.css")


@cache
def plotly_script() -> Markup:
    """Return plotly's script, with nothing in it that ends a script element."""
    script = get_plotlyjs()
    return Markup(script.replace("<!--", "\\x3c!--").replace("</script", "\\x3c/script"))


def plotly_file() -> bytes:
    """Return plotly's script as a file of its own, for pages that share it."""
    return get_plotlyjs().encode()


@cache
def table_widget() -> Markup:
    """Return the module of the table widget (DataTables, as itables ships it) as a JSON string.

    It holds both `<!--` and `<script`, after which a browser would not see where the script element ends.
    """
    return script_json(read_package_file("html/dt_bundle.js"))
