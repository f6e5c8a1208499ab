"""The plain stack: what a team has that follows the tutorials, and stops there."""
