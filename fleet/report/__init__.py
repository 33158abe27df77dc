"""Static pages a person likes to read: what runs where, what does not, why, and the cheapest change that unlocks it."""
