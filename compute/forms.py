"""Form of any task, made from the task's serializer, which also validates it."""

from collections.abc import Iterator
from typing import Any

import orjson
from django import forms
from rest_framework import serializers
from rest_framework.fields import empty

from compute.models import Job
from compute.registry import Task

NON_FIELD = "non_field_errors"


class LinesField(forms.CharField):
    """A list of texts, one on each line."""

    widget = forms.Textarea({"rows": 4})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list) else value


class JSONTextField(forms.JSONField):
    widget = forms.Textarea({"rows": 12, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)


class Checkboxes(forms.CheckboxSelectMultiple):
    def id_for_label(self, id_: str, index: str | None = None) -> str:
        """Return the first box for the whole field, for links to it."""
        return super().id_for_label(id_, index or "0")


class TaskForm(forms.Form):
    """Parameters of a task. Once valid, `cleaned_data` is that of its serializer.

    The fields only render: none of them validates.
    """

    def __init__(
        self,
        task: Task,
        data: Any = None,
        files: Any = None,
        initial: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data, files, initial=initial)
        self.task = task
        for name, parameter in parameters(task).items():
            self.fields[name] = _as_form_field(parameter)

    def _clean_fields(self) -> None:
        """Do nothing: the serializer validates."""

    def clean(self) -> dict[str, Any]:
        serializer = self.task.params(data=self._submitted())
        if serializer.is_valid():
            return dict(serializer.validated_data)
        for name, found in serializer.errors.items():
            field = name if name in self.fields else None
            prefix = "" if field or name == NON_FIELD else f"{name}: "
            self.add_error(field, [prefix + text for text in _messages(found)])
        return self.cleaned_data

    def _submitted(self) -> Any:
        """Return fields and files together, as REST framework does."""
        sent = self.data.copy()  # type: ignore[attr-defined]
        sent.update(self.files)
        for name, field in self.fields.items():
            if isinstance(field, LinesField):
                lines = str(sent.get(name, "")).splitlines()
                sent.setlist(name, [line.strip() for line in lines if line.strip()])
            elif isinstance(field, forms.BooleanField):
                # Browsers do not send an unchecked box.
                sent.setdefault(name, "false")
        return sent


def _is_checked(value: Any) -> bool:
    """Return whether a box is checked, also by a link to the form."""
    return bool(forms.BooleanField().to_python(value))


def parameters(task: Task | None) -> dict[str, Any]:
    """Return the writable fields of the task's serializer."""
    fields = task.params().fields if task else {}
    return {
        name: field
        for name, field in fields.items()
        if not field.read_only and not isinstance(field, serializers.HiddenField)
    }


def display_params(job: Job) -> list[tuple[str, Any]]:
    """Return the parameters of `job`, with the labels and choices of its form."""
    fields = parameters(job.spec)
    # PostgreSQL does not preserve the order of JSON members.
    names = [name for name in fields if name in job.params]
    names += sorted(job.params.keys() - names)
    return [
        (_label(fields.get(name), name), _display(fields.get(name), job.params[name]))
        for name in names
        if job.params[name] not in (None, "", [])
    ]


def _label(parameter: Any, name: str) -> str:
    return str(parameter.label) if parameter else name.replace("_", " ").capitalize()


def _display(parameter: Any, value: Any) -> Any:
    choices = _choices(parameter)
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    if isinstance(value, list):
        return ", ".join(str(choices.get(entry, entry)) for entry in value)
    return choices.get(value, value) if isinstance(value, str | int) else value


def _choices(parameter: Any) -> dict[Any, Any]:
    return getattr(getattr(parameter, "child", parameter), "choices", {})


def _as_form_field(parameter: Any) -> forms.Field:
    default = None if parameter.default is empty else parameter.default
    if callable(default):
        default = None
    options: dict[str, Any] = {
        "label": parameter.label,
        "help_text": parameter.help_text or "",
        "initial": default,
        # A field with an initial value is not marked as optional.
        "required": parameter.required or default not in (None, "", []),
    }
    match parameter:
        case serializers.BooleanField():
            box = forms.CheckboxInput(check_test=_is_checked)
            return forms.BooleanField(**options | {"required": False, "widget": box})
        case (
            serializers.MultipleChoiceField()
            | serializers.ListField(child=serializers.ChoiceField())
        ):
            choices = list(_choices(parameter).items())
            return forms.MultipleChoiceField(
                choices=choices, widget=Checkboxes, **options
            )
        case serializers.ChoiceField():
            none = [] if options["required"] else [("", "—")]
            choices = [*none, *parameter.choices.items()]
            return forms.ChoiceField(choices=choices, **options)
        case serializers.FileField():
            return forms.FileField(widget=forms.FileInput, **options)
        case serializers.IntegerField():
            return forms.IntegerField(**options | _limits(parameter))
        case serializers.FloatField() | serializers.DecimalField():
            return forms.FloatField(**options | _limits(parameter))
        case serializers.ListField() | serializers.JSONField():
            is_list = isinstance(parameter, serializers.ListField)
            field = (LinesField if is_list else JSONTextField)(**options)
            field.widget.attrs |= parameter.style.get("attrs", {})
            return field
        case _:
            longest = getattr(parameter, "max_length", None)
            widget = _text_widget(parameter)
            return forms.CharField(max_length=longest, widget=widget, **options)


def _text_widget(parameter: Any) -> forms.Widget:
    if parameter.style.get("base_template") == "textarea.html":
        return forms.Textarea()
    is_day = isinstance(parameter, serializers.DateField)
    return forms.DateInput({"type": "date"}) if is_day else forms.TextInput()


def _limits(parameter: Any) -> dict[str, Any]:
    return {"min_value": parameter.min_value, "max_value": parameter.max_value}


def _messages(found: Any) -> Iterator[str]:
    """Yield the errors of a parameter; those of an element begin with its place."""
    if isinstance(found, dict):
        for place, inner in found.items():
            number = place + 1 if isinstance(place, int) else place
            yield from (f"{number}: {text}" for text in _messages(inner))
    else:
        for text in found:
            yield from _messages(text) if isinstance(text, dict) else (str(text),)
