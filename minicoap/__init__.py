"""A CoAP endpoint in pure Python: client and server on one socket."""
