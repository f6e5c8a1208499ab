from django.urls import path

from compute import views

app_name = "compute"

urlpatterns = [
    path("", views.job_list, name="jobs"),
    path("new/", views.task_list, name="tasks"),
    path("new/<slug:name>/", views.job_new, name="new"),
    path("<uuid:pk>/", views.job_detail, name="detail"),
    path("<uuid:pk>/cancel/", views.job_cancel, name="cancel"),
    path("<uuid:pk>/again/", views.job_again, name="again"),
    path("<uuid:pk>/merge/", views.job_merge, name="merge"),
    path("<uuid:pk>/files/<str:name>", views.job_file, name="file"),
]
