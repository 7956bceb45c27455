"""The planes of a report as pictures of their own, for papers and pages."""

from importlib.resources import files

from markupsafe import Markup

from sda_integrations.studies.report.plane import WIDTH, planes_of
from sda_integrations.studies.report.readings import Readings

_OWN = "svg { background: var(--page); font-family: system-ui, sans-serif; }"


def figures_of(readings: Readings) -> dict[str, str]:
    """File name -> a picture in SVG that needs nothing but itself, for each task with a plane; light or dark."""
    style = files(__package__).joinpath("templates/report.css").read_text(encoding="utf-8")
    return {f"plane-{plane.task}.svg": _alone(plane.svg, f"{style}{_OWN}") + "\n" for plane in planes_of(readings)}


def _alone(svg: Markup, style: str) -> str:
    """A drawing of the page with the page's style in it."""
    head, rest = str(svg).split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"><style>{style}</style>{rest}'
