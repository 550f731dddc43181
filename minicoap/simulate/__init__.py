"""A network under a virtual clock: machines without I/O, joined by lossy links, repeatable from a seed."""
