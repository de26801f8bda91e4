"""The link of a process to the broker.

facade         Link: what the rest of the product uses
reconnect      when to connect, who waits for it and who is told
dial           which broker is next, and what was wrong on the way
handover       from one connection to the next without a gap
overlap        two connections of one link for a moment
subscriptions  interests that survive connections
requests       questions in flight and their answers
guard          one connection, once, behind nats-py's handshake
opening        where to, as who, and what a failure means
outbox         frames on their way out
transport      the socket
"""

from broker_client.runtime.frames import Msg
from broker_client.runtime.link.facade import Link
from broker_client.runtime.link.opening import Endpoint, LinkIdentity
from broker_client.runtime.link.overlap import Trial
from broker_client.runtime.link.requests import NoResponders
from broker_client.runtime.link.subscriptions import Subscription

__all__ = ["Endpoint", "Link", "LinkIdentity", "Msg", "NoResponders", "Subscription", "Trial"]
