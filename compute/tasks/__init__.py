"""One file a task. A new file here is all that a new task takes."""
