"""What runs on a host: programs, their runner and the agent."""
