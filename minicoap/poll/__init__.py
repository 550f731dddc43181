"""The smallest shell: one thread that waits in poll(2), without asyncio."""
