"""Captures of others: reading the file, finding the UDP datagrams in it, telling which of them are CoAP."""
