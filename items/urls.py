from django.urls import path, register_converter
from django.urls.converters import StringConverter

from items import rules, views

app_name = "items"


class IdConverter(StringConverter):
    regex = rules.ID_PATTERN.strip("^$")


register_converter(IdConverter, "id")

urlpatterns = [
    path("", views.item_list, name="list"),
    path("new/", views.item_new, name="new"),
    path("changes/", views.change_list, name="changes"),
    path("import/", views.import_new, name="import"),
    path("import/<uuid:pk>/", views.import_run, name="import-run"),
    path("import/<uuid:pk>/rejects/", views.import_rejects, name="import-rejects"),
    path("<id:id>/", views.item_detail, name="detail"),
    path("<id:id>/edit/", views.item_edit, name="edit"),
    path("<id:id>/delete/", views.item_delete, name="delete"),
    path("<id:id>/undo/<int:change_id>/", views.change_undo, name="undo"),
]
