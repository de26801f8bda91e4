"""The process that `broker-agent run` becomes. Its arguments are private to that command."""

import sys

from broker_agent.cli import become_agent

if __name__ == "__main__":
    become_agent(sys.argv[1:])
