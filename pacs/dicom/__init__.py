"""The standard's rules as pure functions and tables; no sockets, clocks or databases."""
