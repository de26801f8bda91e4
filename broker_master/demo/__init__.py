"""`make demo`: a broker, a master and three agents at work on this machine."""
