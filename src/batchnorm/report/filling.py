"""Templates filled with what the sections made of the records."""

from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined

from batchnorm.report.phrases import tidy

__all__ = ["fill"]


def fill(template: str, context: dict[str, Any], *loaders: BaseLoader) -> str:
    """Return a whole HTML document; everything in the context is escaped unless it is markup already.

    Args:
        template: its name.
        context: what it may name; a name that is missing is an error.
        loaders: where templates are looked for before those of the report.
    """
    environment = Environment(
        loader=ChoiceLoader([*loaders, PackageLoader("batchnorm.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tidy"] = tidy
    page = environment.get_template(template).render(context)
    # A command may hold bytes that are not UTF-8; they came as lone surrogates, which no file can hold.
    return page.encode(errors="replace").decode()
