"""The first page: groups and agents at a glance, read only."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from broker_master.plane import Plane
from broker_master.services.views import Views
from schemas.messages.registry import ClientEntry

# The page shows what a viewer of all groups may see.
_VIEWER = ClientEntry(name="console", role="viewer", created_at=0.0)
_AGENTS_SHOWN = 500
# The page is self-contained; nothing is fetched, framed or run.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class Overview:
    def __init__(self, plane: Plane, views: Views) -> None:
        self._plane = plane
        self._views = views
        folder = Path(__file__).with_name("templates")
        self._template = Environment(
            loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
        ).get_template("overview.html")

    def page(self) -> str:
        registry = self._plane.registry
        agents = sorted(registry.agents.items())
        return self._template.render(
            status=self._views.status(_VIEWER),
            groups=self._views.groups(sorted(registry.groups)),
            agents=[self._views.agent(entry) for _, entry in agents[:_AGENTS_SHOWN]],
            hidden=max(0, len(agents) - _AGENTS_SHOWN),
        )
