"""Fleet updates over CoAP: a server, the nodes' agent and the operator's commands."""

__version__ = "0.1.0"
