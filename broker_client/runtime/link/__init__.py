"""The link of a process to the broker.

facade         Link: the interface for the rest of the product
reconnect      when to connect, waiters and listeners
dial           choice of the next broker, and complaints
handover       from one connection to the next without a gap
overlap        two connections of one link during a handover
subscriptions  interests that survive a reconnect
requests       requests in flight and their answers
guard          one connection, used once, behind nats-py's handshake
opening        endpoint, identity, and the meaning of failures
outbox         frames to be sent
transport      the socket
"""

from broker_client.runtime.frames import Msg
from broker_client.runtime.link.facade import Link
from broker_client.runtime.link.opening import Endpoint, LinkIdentity
from broker_client.runtime.link.overlap import Trial
from broker_client.runtime.link.requests import NoResponders, Unanswered
from broker_client.runtime.link.subscriptions import Subscription

__all__ = [
    "Endpoint",
    "Link",
    "LinkIdentity",
    "Msg",
    "NoResponders",
    "Subscription",
    "Trial",
    "Unanswered",
]
