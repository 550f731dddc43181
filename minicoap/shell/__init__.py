"""What every shell is made of: sockets and addresses, randomness, and the event loop as far as it is needed."""
