"""The `minicoap` command: a client for any CoAP server."""
