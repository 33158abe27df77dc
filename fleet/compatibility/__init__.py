"""Whether a build runs on a host, from bytes and facts alone: requirements, features, decision, choice, unlocks."""
