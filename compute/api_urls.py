"""URLs under /api/v1/; the trailing slash is optional."""

from django.urls import re_path

from compute.api import HeavyComputationView, JobViewSet, TaskViewSet

tasks = TaskViewSet.as_view({"get": "list"})
task = TaskViewSet.as_view({"get": "retrieve"})
jobs = JobViewSet.as_view({"get": "list", "post": "create"})
job = JobViewSet.as_view({"get": "retrieve"})
events = JobViewSet.as_view({"get": "events"})
cancel = JobViewSet.as_view({"post": "cancel"})
result = JobViewSet.as_view({"get": "result"})
file = JobViewSet.as_view({"get": "file"})
heavy_computation = HeavyComputationView.as_view()

ID = r"(?P<id>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"

urlpatterns = [
    re_path(r"^tasks/?$", tasks, name="task-list"),
    re_path(r"^tasks/(?P<name>\w+)/?$", task, name="task-detail"),
    re_path(r"^jobs/?$", jobs, name="job-list"),
    re_path(rf"^jobs/{ID}/?$", job, name="job-detail"),
    re_path(rf"^jobs/{ID}/events/?$", events, name="job-events"),
    re_path(rf"^jobs/{ID}/cancel/?$", cancel, name="job-cancel"),
    re_path(rf"^jobs/{ID}/result/?$", result, name="job-result"),
    re_path(rf"^jobs/{ID}/files/(?P<name>[^/]+)/?$", file, name="job-file"),
    re_path(r"^heavy_computation/?$", heavy_computation, name="heavy-computation"),
]
