"""Serializers of jobs and tasks for REST."""

from typing import Any

from django.urls import reverse
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers
from rest_framework.generics import GenericAPIView

from compute.models import Job, JobFile
from compute.registry import Task


class ProgressSerializer(serializers.Serializer[Any]):
    fraction = serializers.FloatField(min_value=0, max_value=1)
    message = serializers.CharField(allow_blank=True)


class ErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()


class FileSerializer(serializers.Serializer[JobFile]):
    name = serializers.CharField()
    content_type = serializers.CharField()
    size = serializers.IntegerField(min_value=0)
    url = serializers.SerializerMethodField()

    def get_url(self, file: JobFile) -> str:
        path = reverse("api:job-file", args=[file.job_id, file.name])
        url: str = self.context["request"].build_absolute_uri(path)
        return url


class LinksSerializer(serializers.Serializer[Any]):
    self = serializers.URLField()
    events = serializers.URLField()
    cancel = serializers.URLField()
    result = serializers.URLField()
    page = serializers.URLField()


class JobSummarySerializer(serializers.Serializer[Job]):
    """A job without its result and files."""

    id = serializers.UUIDField()
    task = serializers.CharField()
    params = serializers.DictField()
    state = serializers.ChoiceField(Job.State.choices)
    progress = ProgressSerializer()
    attempts = serializers.IntegerField(min_value=0)
    error = ErrorSerializer(allow_null=True)
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    links = serializers.SerializerMethodField()

    @extend_schema_field(LinksSerializer)
    def get_links(self, job: Job) -> dict[str, str]:
        absolute = self.context["request"].build_absolute_uri
        urls = {
            "self": reverse("api:job-detail", args=[job.pk]),
            "events": reverse("api:job-events", args=[job.pk]),
            "cancel": reverse("api:job-cancel", args=[job.pk]),
            "result": reverse("api:job-result", args=[job.pk]),
            "page": job.get_absolute_url(),
        }
        return {name: absolute(url) for name, url in urls.items()}


class JobSerializer(JobSummarySerializer):
    """A job: one run of a task."""

    result = serializers.JSONField(help_text="What the task returns; null until then.")
    files = FileSerializer(source="result_files", many=True)


@extend_schema_serializer(many=False)
class JobListSerializer(serializers.Serializer[Any]):
    results = JobSummarySerializer(many=True)
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)


class TaskSerializer(serializers.Serializer[Task]):
    """A task; `params` is the JSON Schema of its parameters."""

    name = serializers.CharField()
    title = serializers.CharField()
    description = serializers.CharField()
    params = serializers.SerializerMethodField()
    time_limit_s = serializers.FloatField()
    memory_mb = serializers.IntegerField()
    retries = serializers.IntegerField()

    may_run = serializers.SerializerMethodField()

    def get_may_run(self, task: Task) -> bool:
        return task.may_run(self.context["user"])

    def get_params(self, task: Task) -> dict[str, Any]:
        return params_schema(task)


@extend_schema_serializer(many=False)
class TaskListSerializer(serializers.Serializer[Any]):
    results = TaskSerializer(many=True)


def params_schema(task: Task) -> dict[str, Any]:
    """Return the JSON Schema of the parameters, as in OpenAPI 3.1."""
    mapper: Any = AutoSchema()
    mapper.registry, mapper.method = ComponentRegistry(), "POST"
    mapper.view = GenericAPIView(request=None, format_kwarg=None)
    schema: dict[str, Any] = mapper._map_basic_serializer(task.params, "request")
    schema.pop("description", None)
    return {"type": "object", "properties": {}} | schema
