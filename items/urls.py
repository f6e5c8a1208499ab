from django.urls import path

from items import views
from items.bulk import views as batches
from items.imports import views as imports

app_name = "items"
urlpatterns = [
    path("", views.item_list, name="list"),
    # No id begins with "-".
    path("-/new/", views.item_new, name="new"),
    path("-/change-all/", views.change_all, name="change-all"),
    path("-/suggestions/", views.suggestion_list, name="suggestions"),
    path("-/changes/", views.change_list, name="changes"),
    path("-/batches/", batches.batch_list, name="batches"),
    path("-/batches/<uuid:pk>/", batches.batch_detail, name="batch"),
    path("-/batches/<uuid:pk>/undo/", batches.batch_undo, name="batch-undo"),
    path("-/import/", imports.import_new, name="import"),
    path("-/import/<uuid:pk>/", imports.import_run, name="import-run"),
    path("-/import/<uuid:pk>/options/", imports.import_options, name="import-options"),
    path("-/import/<uuid:pk>/rejects/", imports.import_rejects, name="import-rejects"),
    # Where they were before.
    path("new/", views.moved("new")),
    path("changes/", views.moved("changes")),
    path("import/", views.moved("import")),
    path("import/<uuid:pk>/", views.moved("import-run")),
    path("import/<uuid:pk>/rejects/", views.moved("import-rejects")),
    path("<str:id>/", views.item_detail, name="detail"),
    path("<str:id>/edit/", views.item_edit, name="edit"),
    path("<str:id>/relations/", views.item_relations, name="relations"),
    path("<str:id>/retire/", views.item_retire, name="retire"),
    path("<str:id>/delete/", views.item_delete, name="delete"),
    path("<str:id>/undo/<int:change_id>/", views.change_undo, name="undo"),
]
