"""One deploy function per component."""
