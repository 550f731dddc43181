"""What an operator's programs ask of a fleet."""
