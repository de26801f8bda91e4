"""Serves `/metrics` on a port of its own, if it has one."""

from broker_client.runtime.exposition import ExpositionServer
from broker_master.metrics.scrape import Scraper
from schemas.addresses import place_to_listen


def own_endpoint(address: str, scraper: Scraper) -> list[ExpositionServer]:
    """The server of an address; none if empty. Raises Refused (`settings_invalid`)."""
    if not address:
        return []
    host, port = place_to_listen("metrics_http", address)
    return [ExpositionServer(host, port, scraper.page)]
