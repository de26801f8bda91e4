"""The operations of the mesh: one implementation for NATS and HTTP."""
