"""The `mesh` command."""


def main() -> None:
    """Run the command line of this process and exit with its code."""
    import sys

    from broker_client.cli.tree import run
    from broker_client.runtime.stdio import guard_output

    guard_output()
    sys.exit(run(sys.argv[1:]))
