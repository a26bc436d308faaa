"""Where the bytes rest: one port, several object stores."""
