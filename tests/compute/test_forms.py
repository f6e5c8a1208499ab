"""The form of a task: made from its serializer, and validated by that alone."""

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict
from rest_framework import serializers

from compute.forms import TaskForm, display_params
from compute.models import Job
from compute.registry import Task, tasks
from tests.compute.faults import echo

pytestmark = pytest.mark.once


class Everything(serializers.Serializer[Any]):
    size = serializers.IntegerField(default=5_000, min_value=1, max_value=100_000)
    share = serializers.FloatField(min_value=0, help_text="Of the whole.")
    price = serializers.DecimalField(max_digits=6, decimal_places=2, required=False)
    word = serializers.CharField(max_length=20, label="A word")
    note = serializers.CharField(
        required=False, allow_blank=True, style={"base_template": "textarea.html"}
    )
    shape = serializers.ChoiceField([("csv", "Table"), ("json", "Tree")], default="csv")
    colour = serializers.ChoiceField(["red", "blue"], required=False)
    letters = serializers.MultipleChoiceField(choices=["a", "b", "c"], required=False)
    parts = serializers.ListField(
        child=serializers.ChoiceField(["x", "y"]), required=False
    )
    names = serializers.ListField(
        child=serializers.CharField(max_length=5), required=False
    )
    careful = serializers.BooleanField(default=True)
    on = serializers.DateField(required=False)
    file = serializers.FileField(required=False)
    secret = serializers.HiddenField(default="kept")
    computed = serializers.CharField(read_only=True)


GOOD = "share=0.5&word=bolt"


@pytest.fixture
def task() -> Task:
    """One with every kind of parameter, which is not in the registry."""
    return Task("all", print, Everything, "All", 1, 1, 0, lambda user: True, None)


def sent(task: Task, text: str, **files: Any) -> TaskForm:
    return TaskForm(task, QueryDict(text), MultiValueDict(files))


def test_form_has_a_control_for_each_kind_of_parameter(task):
    form = TaskForm(task)
    controls = {field.name: str(field) for field in form}
    expected = {
        "size": ('type="number"', 'value="5000"', 'min="1"', 'max="100000"'),
        "share": ('step="any"',),
        "price": ('step="any"',),
        "word": ('maxlength="20"',),
        "note": ("<textarea",),
        "shape": ('<option value="csv" selected>Table',),
        "colour": ("<option",) * 3,
        "letters": ('type="checkbox"',) * 3,
        "parts": ('type="checkbox"',) * 2,
        "names": ("<textarea",),
        "careful": ("checked",),
        "on": ('type="text"',),
        "file": ('type="file"',),
    }
    assert list(controls) == list(expected)
    for name, parts in expected.items():
        for part in parts:
            assert controls[name].count(part) == parts.count(part)
    assert form.is_multipart()
    assert not TaskForm(echo).is_multipart()


def test_form_states_limits_and_optional_fields(task):
    form = TaskForm(task)
    assert form["size"].help_text == "At least 1 and at most 100,000."
    assert form["share"].help_text == "Of the whole. At least 0."
    assert form["word"].label == "A word"
    optional = {field.name for field in form if not field.field.required}
    assert optional == {
        "price", "note", "colour", "letters", "parts", "names", "careful", "on", "file",
    }  # fmt: skip


def test_form_returns_the_values_of_the_serializer(task):
    form = sent(
        task,
        f"{GOOD}&size=&shape=json&letters=c&letters=a&parts=y&careful=on"
        "&names=one%0D%0A%0D%0A two &on=2026-02-28&colour=&price=1.5&computed=me",
        file=[SimpleUploadedFile("a.csv", b"name")],
    )
    assert form.is_valid(), form.errors
    values = form.cleaned_data
    assert values.pop("file").read() == b"name"
    assert values.pop("on").isoformat() == "2026-02-28"
    assert str(values.pop("price")) == "1.50"
    assert values == {
        "size": 5_000, "share": 0.5, "word": "bolt", "shape": "json",
        "letters": ["c", "a"], "parts": ["y"], "names": ["one", "two"],
        "careful": True, "secret": "kept",
    }  # fmt: skip


def test_unchecked_box_is_false_whatever_the_default(task):
    form = sent(task, GOOD)
    assert form.is_valid(), form.errors
    values = [form.cleaned_data[name] for name in ("careful", "letters", "size")]
    assert values == [False, [], 5_000]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ("size=0", "size"),
        ("size=1.5", "size"),
        ("size=9" + "9" * 5000, "size"),
        ("share=nan", "share"),
        ("word=" + "x" * 21, "word"),
        ("word=%00", "word"),
        ("word=", "word"),
        ("shape=round", "shape"),
        ("letters=d", "letters"),
        ("parts=z", "parts"),
        ("names=one%0Atoolong", "names"),
        ("on=yesterday", "on"),
        ("file=text", "file"),
    ],
    ids=lambda value: value[:16],
)
def test_form_error_is_at_its_field_and_input_is_kept(task, bad, field):
    form = sent(task, f"{GOOD}&{bad}")
    assert not form.is_valid()
    assert list(form.errors) == [field]
    assert form["share"].value() in ("0.5", "nan")
    assert str(form)
    if "%0A" in bad:  # the second line of a list
        assert form.errors[field][0].startswith("2: ")


def test_form_error_of_several_fields_is_above_the_form(task):
    class Pair(serializers.Serializer[Any]):
        low = serializers.IntegerField()
        high = serializers.IntegerField()

        def validate(self, values: Any) -> Any:
            if values["low"] > values["high"]:
                raise serializers.ValidationError("Low is above high.")
            return values

    task.params = Pair
    form = sent(task, "low=2&high=1")
    assert not form.is_valid()
    assert form.non_field_errors() == ["Low is above high."]


def test_parameters_are_displayed_with_the_labels_of_the_form(task, monkeypatch):
    monkeypatch.setitem(tasks, "all", task)
    params = {
        "old_one": "x", "note": "", "shape": "json", "parts": ["x", "y"],
        "word": "bolt", "size": 5,
    }  # fmt: skip
    assert display_params(Job(task="all", params=params)) == [
        ("Size", 5),
        ("A word", "bolt"),
        ("Shape", "Tree"),
        ("Parts", "x, y"),
        ("Old one", "x"),
    ]
    assert display_params(Job(task="gone", params={"size": 5})) == [("Size", 5)]
