"""The vocabulary shared by server, agent and operator: states and their moves, messages, formats; pure functions."""
