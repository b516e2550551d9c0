"""A plotly figure as a page of its own."""

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>{body}</body>
</html>
"""


def page_html(title: str, figure: "Figure") -> str:
    """Return an HTML page that shows a figure and needs no network.

    Args:
        title: The page's title, as plain text.
        figure: The figure.
    """
    body = figure.to_html(
        include_plotlyjs=True,
        config={"displaylogo": False},
        default_height="95vh",
        full_html=False,
    )
    return _PAGE.format(title=escape(title), body=body)
