"""What a process of the fleet stands on: clock, files, processes, host facts, boot.

Each module holds a small Protocol and its one system implementation; the simulation supplies its own.
"""
