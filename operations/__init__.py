"""Our pyinfra facts and operations."""
