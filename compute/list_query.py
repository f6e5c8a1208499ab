"""Which jobs: the query string that every list of them understands."""

from django.contrib.auth.models import AnonymousUser, User
from django.http import QueryDict

from compute.models import Job, JobQuerySet
from compute.registry import tasks
from resilient_site.errors import Invalid


def select(query: QueryDict, user: User | AnonymousUser) -> JobQuerySet:
    """Return the jobs that `user` may see, of the `state` and `task` asked for.

    Raises Invalid with what is wrong, by parameter.
    """
    wanted, errors = {}, {}
    for name, known in (("state", Job.State.values), ("task", sorted(tasks))):
        value = query.get(name)
        if value and value in known:
            wanted[name] = value
        elif value:
            errors[name] = [f"Must be one of {', '.join(known)}."]
    if errors:
        raise Invalid(errors=errors)
    # A result may be large, and no list shows it.
    return Job.objects.visible_to(user).filter(**wanted).defer("result")
