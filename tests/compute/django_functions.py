"""Functions with the decorator of Django's Tasks framework."""

from django.tasks import task


@task
def add(a: int, *, b: int) -> int:
    return a + b


@task(takes_context=True)
async def identify(context) -> str:
    return f"{context.task_result.id} {context.attempt}"


@task
def fail() -> None:
    raise ValueError("the cat sat on it")
