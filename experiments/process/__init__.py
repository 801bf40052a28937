"""How a process starts and ends, what it writes, and its last bits."""
