"""Celery as the engine of jobs: its workers run them, in Celery's prefork pool.

The database remains the only record of jobs. A message carries the id of a job as a
hint: the process that receives it claims the job in the database, as the local pool
does, or drops the message. So messages may come twice, late or never.

relay.py publishes due jobs; tasks.py runs one; keeper.py is a thread of the worker's
main process that holds the claims of its processes, and ends those of them that must.
"""

from compute.celery import keeper, tasks

__all__ = ["keeper", "tasks"]
