"""List query of jobs: the query string that REST and pages share."""

from django.contrib.auth.models import AnonymousUser, User
from django.http import QueryDict

from compute.models import Job, JobQuerySet
from compute.registry import tasks
from resilient_site.errors import Invalid


def select_jobs(query: QueryDict, user: User | AnonymousUser) -> JobQuerySet:
    """Return the jobs visible to `user`, filtered by `state` and `task`.

    Raises Invalid with messages by parameter.
    """
    filters, errors = {}, {}
    for name, allowed in (("state", Job.State.values), ("task", sorted(tasks))):
        value = query.get(name)
        if value and value in allowed:
            filters[name] = value
        elif value:
            errors[name] = [f"Must be one of {', '.join(allowed)}."]
    if errors:
        raise Invalid(errors=errors)
    # A result may be large, and lists do not show it.
    return Job.objects.visible_to(user).filter(**filters).defer("result")
