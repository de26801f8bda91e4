"""Connects the operations of the API; a verb without a handler fails here."""

from broker_master.api.agents import AgentOperations
from broker_master.api.audit import AuditOperations
from broker_master.api.authority import AuthorityOperations
from broker_master.api.clients import ClientOperations
from broker_master.api.commands import CommandOperations
from broker_master.api.connections import ConnectionOperations
from broker_master.api.deadletters import DeadLetterOperations
from broker_master.api.events import EventOperations
from broker_master.api.fanouts import FanoutOperations
from broker_master.api.groups import GroupOperations
from broker_master.api.operations import Operations
from broker_master.api.renewal_orders import RenewalOrderOperations
from broker_master.api.retries import RetryOperations
from broker_master.plane import Plane
from broker_master.services.connection_tests import ConnectionTests
from broker_master.services.eventreader import EventReader
from broker_master.services.output import OutputReader
from broker_master.services.retries import Retries
from broker_master.wiring.keys import Keys
from broker_master.wiring.ports import Ports
from broker_master.wiring.work import Work
from schemas.verbs import COMMAND_INPUT, COMMAND_SUBMIT


def build_operations(plane: Plane, ports: Ports, keys: Keys, work: Work) -> Operations:
    issuer, views, canceller = ports.mesh.issuer, work.views, work.canceller
    commands = CommandOperations(plane, canceller, OutputReader(plane, ports.streams))
    retries = Retries(plane, work.intake)
    # By client, the digest of the addresses of brokers that it uses.
    addresses: dict[str, str] = {}
    operations = Operations()
    operations.add_direct(COMMAND_SUBMIT, work.intake.submit)
    operations.add(COMMAND_INPUT, work.inputs.take)
    operations.fill(
        [
            AuditOperations(ports.streams, plane.telemetry.strays),
            EventOperations(EventReader(plane)),
            commands,
            DeadLetterOperations(plane, commands, retries),
            RetryOperations(retries),
            FanoutOperations(plane, work.fanouts, canceller),
            GroupOperations(plane, views),
            ConnectionOperations(
                plane,
                work.connections,
                ConnectionTests(plane, work.intake, work.connections),
            ),
            AgentOperations(
                plane,
                views,
                issuer,
                work.presence,
                canceller,
                keys.revoker,
                work.transitions,
                keys.orders,
            ),
            RenewalOrderOperations(plane, keys.orders),
            ClientOperations(plane, views, issuer, keys.desk, keys.revoker, addresses),
            AuthorityOperations(plane, keys.custody, keys.rotator, addresses),
        ]
    )
    return operations
