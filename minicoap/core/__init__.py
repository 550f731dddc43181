"""The endpoint without I/O: no socket, loop, clock, thread or random source; time and randomness are arguments."""
