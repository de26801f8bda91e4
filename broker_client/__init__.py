"""What every process needs to take part in the mesh: the link, the SDK and the `mesh` command."""
