"""The fleet's server: an engine that applies commands to a store, resources in front of it, and a thin process."""
