"""The report as one HTML file that opens offline: charts, script and style are all in it, and it may fetch nothing."""

import functools
import json
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from analysis.document import Document
from analysis.style import LINES, PICKED, Style
from analysis.words import p_value

TEMPLATE = Path(__file__).with_name("page.html")

SYMBOL_PATHS = {
    "circle": "M5,0A5,5,0,1,1,-5,0A5,5,0,1,1,5,0",
    "square": "M-4.5,-4.5h9v9h-9Z",
    "diamond": "M0,-6L5,0L0,6L-5,0Z",
    "triangle-up": "M0,-5L5.5,4.5H-5.5Z",
    "triangle-down": "M0,5L5.5,-4.5H-5.5Z",
    "triangle-right": "M5,0L-4.5,5.5V-5.5Z",
}
"""The symbols of ``analysis.style.SYMBOLS`` in the page's own key."""


def page(content: Document) -> str:
    """Lay the report out."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(spec=_spec, p=p_value, heading=lambda text: text.replace("-\n", "").replace("\n", " "))
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(content=content, script=_script(), picked=PICKED, lines=LINES, symbol=_symbol)


@functools.cache
def _script() -> str:
    """Vega, Vega-Lite and Vega-Embed, to stand inside a script element."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _spec(view: dict[str, Any]) -> str:
    """A chart as JSON that can stand inside a script element."""
    return json.dumps(view, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _symbol(style: Style) -> str:
    return SYMBOL_PATHS[style.symbol]
