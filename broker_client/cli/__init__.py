"""The `mesh` command."""


def main() -> None:
    """Run the command line of this process and exit with its code."""
    import gc
    import sys

    # Imported modules stay: repeated collections over them take a tenth of a short command.
    gc.set_threshold(50_000, 20, 50)
    from broker_client.cli.tree import run
    from broker_client.runtime.stdio import guard_output

    guard_output()
    sys.exit(run(sys.argv[1:]))
