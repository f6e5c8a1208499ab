"""Tasks, one in each module; a new module here is found by the registry.

Their algorithms, which need neither jobs nor the pool, are in `algorithms/`.
"""

from typing import Any

from rest_framework import serializers

from items import rules


class TagField(serializers.CharField):
    """Parameter of a task that is limited to the items with a tag; empty: to none."""

    def __init__(self, **options: Any) -> None:
        options |= {"default": "", "allow_blank": True}
        super().__init__(help_text="Only items with this tag.", **options)

    def to_internal_value(self, data: Any) -> str:
        tag = super().to_internal_value(data)
        if not tag:
            return ""
        try:
            tag = rules.clean_tag(tag)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from error
        from items.models import Tag  # algorithms are imported without Django set up

        if not Tag.objects.filter(name=tag).exists():
            raise serializers.ValidationError(f"There is no tag “{tag}”.")
        return tag
