"""The fleet in one process under a virtual clock: the real server and agents on pretended hosts, with faults by seed.

`SimulatedFleet(seed).run()` starts the classes that `fleet server` and `fleet agent` start; only what they stand on is
replaced: clock, entropy, datagrams, files, the store's disk, installer processes, boot and host facts. What must never
happen is checked after every event, what must happen in the end after the faults have ceased.
"""
