"""Publishing of the change log to a message broker."""
