"""The client side of the mesh: the link that every process uses, the SDK, the `mesh` command."""
