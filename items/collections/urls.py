from django.urls import path

from items.collections import views

app_name = "collections"
urlpatterns = [
    path("", views.collection_list, name="list"),
    # No key begins with "-".
    path("-/new/", views.collection_new, name="new"),
    path("<str:key>/", views.collection_detail, name="detail"),
    path("<str:key>/edit/", views.collection_edit, name="edit"),
    path("<str:key>/delete/", views.collection_delete, name="delete"),
]
