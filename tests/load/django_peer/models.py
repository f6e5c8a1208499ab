from django.db import models


class Item(models.Model):  # noqa: DJ008 - as short as it can be
    name = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
