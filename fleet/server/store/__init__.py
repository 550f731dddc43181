"""The store: rows and transactions behind one interface, in memory for simulation and in SQLite for real."""
