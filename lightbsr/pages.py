"""HTML pages that need nothing else, neither network nor files beside them; ``page.html`` is what they share."""

import base64
from typing import Any

import jinja2


def data_url(data: bytes, kind: str) -> str:
    """A picture within a page; ``kind``: ``jpeg``, ``png`` or ``webp``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package, such as ``evaluation/report.html``."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("lightbsr", ""), autoescape=True)
    return environment.get_template(template).render(values)
