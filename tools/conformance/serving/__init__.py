"""Tests of clients: a server that waits for their requests, does to them what networks and servers do, and judges."""
