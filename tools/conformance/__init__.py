"""A CoAP conformance tester: any server, any client, any capture (docs/conformance.md)."""
