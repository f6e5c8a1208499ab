"""Tags: what is written to them, REST and the admin."""
