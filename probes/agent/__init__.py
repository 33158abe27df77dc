"""The host agent: what runs on a host and is the only thing that changes one. Python 3.6, standard library only."""
