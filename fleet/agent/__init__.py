"""The agent on a node: a table of steps, a pure machine that runs it, and the journal that survives power cuts."""
