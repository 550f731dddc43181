"""Installers: what changes the node, run by `python -m fleet.install.worker` in a short-lived child process.

A child, because Python never gives back what it imported, because blocking code is what installers are made of, and
because it can be killed: each verb may be cut at any point, and what is on the disk then says what to do.
"""
