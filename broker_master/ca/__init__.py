"""Keys, certificates and NATS JWTs of the mesh."""
