"""What the master keeps: the streams behind the truth, and the read model that caches them."""
