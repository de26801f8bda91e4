"""The operations of the mesh, once, for NATS and HTTP alike."""
