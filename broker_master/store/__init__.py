"""Storage of the master: the streams with the truth, and the read model that caches them."""
