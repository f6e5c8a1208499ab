"""Backend of Django's Tasks framework: what is enqueued runs as a job."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.tasks import TaskResultStatus, task_backends
from django.tasks.exceptions import InvalidTask, TaskResultDoesNotExist
from django.utils import timezone

from compute import jobs
from compute.models import Job
from compute.registry import get_task, list_tasks_for
from resilient_site.errors import NotAllowed, NotSignedIn
from tests.compute.conftest import ended
from tests.compute.django_functions import add, fail, identify

READY, FAILED = TaskResultStatus.READY, TaskResultStatus.FAILED


def ended_job(result) -> Job:
    return ended(Job.objects.get(pk=result.id))


def test_enqueued_function_runs_in_the_pool(pool):
    result = add.enqueue(1, b=2)
    assert (result.status, result.args, result.kwargs) == (READY, [1], {"b": 2})
    assert ended_job(result).result == 3

    result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert (result.return_value, result.attempts, result.errors) == (3, 1, [])
    assert result.enqueued_at <= result.started_at <= result.finished_at
    assert add.get_result(result.id) == result


def test_coroutine_function_gets_its_context(pool):
    result = identify.enqueue()
    assert ended_job(result).result == f"{result.id} 1"


def test_failed_function_has_its_error(pool):
    result = fail.enqueue()
    ended_job(result)
    result.refresh()
    assert result.status == FAILED
    assert "the cat sat on it" in result.errors[0].traceback
    with pytest.raises(ValueError, match="failed"):
        _ = result.return_value


@pytest.mark.django_db
def test_enqueuing_is_part_of_the_transaction():
    with transaction.atomic():
        result = add.enqueue(1, b=2)
        transaction.set_rollback(True)
    with pytest.raises(TaskResultDoesNotExist):
        add.get_result(result.id)
    with pytest.raises(TaskResultDoesNotExist):
        task_backends["default"].get_result("no-uuid")


@pytest.mark.django_db
def test_deferred_function_is_not_due_yet():
    moment = timezone.now() + timedelta(hours=1)
    result = add.using(run_after=moment).enqueue(1, b=2)
    assert result.task.run_after == moment
    assert not Job.objects.claimable().exists()
    assert not Job.objects.waiting().exists()  # it takes no place in the queue
    jobs.cancel(Job.objects.get(pk=result.id))
    result.refresh()
    assert result.status == FAILED


@pytest.mark.django_db
def test_clients_cannot_call_functions():
    task = get_task("django_task")
    superuser = User.objects.create_superuser("root")
    assert task not in list_tasks_for(superuser)
    params = {"function": "os.abort", "backend": "default", "args": [], "kwargs": {}}
    for user, error in ((superuser, NotAllowed), (AnonymousUser(), NotSignedIn)):
        with pytest.raises(error):
            jobs.submit(task=task, params=params, owner=user)
    job = Job.objects.get(pk=add.enqueue(1, b=2).id)
    with pytest.raises(NotAllowed):
        jobs.run_again(job, owner=superuser)


def test_what_cannot_be_stored_or_done_is_rejected():
    with pytest.raises(TypeError):
        add.enqueue(object(), b=1)
    with pytest.raises(InvalidTask):
        add.using(priority=10)
