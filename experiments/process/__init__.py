"""How a process starts and ends, and what its last bits depend on."""
