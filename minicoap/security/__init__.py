"""Security below the message layer: DTLS 1.2 with certificates, without I/O (RFC 7252 §9, RFC 7925)."""
