"""Where `/metrics` is served if it has a port of its own, and which certificates it tells of."""

from broker_client.runtime.exposition import ExpositionServer
from broker_client.runtime.files import read_bytes
from broker_client.runtime.tls import certificate_facts
from broker_master.ca.mesh import Mesh
from broker_master.metrics.scrape import Scraper
from schemas.addresses import place_to_listen


def own_endpoint(address: str, scraper: Scraper) -> list[ExpositionServer]:
    """Nothing for an empty address. Raises Refused (`settings_invalid`) if it is no HOST:PORT."""
    if not address:
        return []
    host, port = place_to_listen("metrics_http", address)
    return [ExpositionServer(host, port, scraper.page)]


def certificate_ends(mesh: Mesh) -> dict[str, float]:
    """When the certificates end that `init` and each start renew: the broker's and the master's."""
    files = {
        "broker": mesh.broker_directory / "server.pem",
        "master": mesh.master_directory / "cert.pem",
    }
    return {
        name: float(certificate_facts(read_bytes(file)).not_after) for name, file in files.items()
    }
