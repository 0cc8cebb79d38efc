"""The report as one HTML file that opens offline: charts, script and style are all in it, and it may fetch nothing."""

import functools
import json
from pathlib import Path
from typing import Any

import jinja2
import vl_convert

from analysis.document import Document
from analysis.sentences import reason
from analysis.style import LINES, PICKED, SYMBOLS

TEMPLATE = Path(__file__).with_name("page.html")


def page(content: Document) -> str:
    """Lay the report out."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(spec=_spec, reason=reason, heading=lambda text: text.replace("-\n", "").replace("\n", " "))
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(content=content, script=_script(), picked=PICKED, lines=LINES, symbols=SYMBOLS)


@functools.cache
def _script() -> str:
    """Vega, Vega-Lite and Vega-Embed, to stand inside a script element."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def _spec(view: dict[str, Any]) -> str:
    """A chart as JSON that can stand inside a script element."""
    return json.dumps(view, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
