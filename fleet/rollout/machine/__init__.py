"""The rollout's state machine: which phase follows, what persons ask, what a rollback undoes."""
