"""The change log for other systems: each change, once it is final, to a broker."""
