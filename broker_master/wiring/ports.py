"""Resources of a master outside its services, and the writer of its event stream."""

from dataclasses import dataclass

from broker_client.runtime.batch import BatchWriter, WriterLimits
from broker_client.runtime.kv import Bucket
from broker_client.runtime.link import Link
from broker_client.runtime.streams import Streams
from broker_master.ca.mesh import Mesh
from broker_master.core.dispatch import Dispatcher
from broker_master.embedded import EmbeddedBroker
from broker_master.services.system import BrokerSystem
from broker_master.store.facts import EVENTS
from broker_master.store.restored import Restored

# With so many commands waiting for a free slot, faster writes would serve none sooner.
_BACKLOG = 64
# Bytes of large commands in one write: no other waits longer than for this.
_HEAVY_BYTES = 512 * 1024


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Everything a master uses of the world outside its services, beside the plane.

    events, history, audit: the writers of these streams. fanouts: the bucket of their entries.
    system_link: the connection as the broker's system user, on which `system` asks. broker: the one
    below this master, if any. earlier: the epoch before this one. restored: the note of a restore,
    if any.
    """

    mesh: Mesh
    streams: Streams
    events: BatchWriter
    history: BatchWriter
    audit: BatchWriter
    fanouts: Bucket
    system: BrokerSystem
    system_link: Link
    broker: EmbeddedBroker | None
    earlier: int
    restored: Restored | None


def make_events(streams: Streams, dispatcher: Dispatcher) -> BatchWriter:
    """The writer of the event stream, slower while commands wait for agents."""
    return BatchWriter(
        streams,
        EVENTS,
        limits=WriterLimits(heavy_bytes=_HEAVY_BYTES),
        is_patient=lambda: dispatcher.is_saturated(_BACKLOG),
    )
