"""The asyncio shell: sockets, timers and coroutines around machines that decide."""
