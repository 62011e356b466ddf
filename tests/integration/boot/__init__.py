"""How a scanner is started with the machine, and what it says to whoever does."""
