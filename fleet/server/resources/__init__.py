"""The server's resources, one file each: payload in, command or query out."""
