"""The form of a task: made from its serializer, and validated by that alone."""

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict
from rest_framework import serializers

from compute.forms import TaskForm, display_params
from compute.models import Job
from compute.registry import Task, get_task, tasks
from tests.compute.faults import echo

pytestmark = pytest.mark.once


class Everything(serializers.Serializer[Any]):
    size = serializers.IntegerField(default=5_000, min_value=1, max_value=100_000)
    share = serializers.FloatField(min_value=0)
    price = serializers.DecimalField(max_digits=6, decimal_places=2, required=False)
    word = serializers.CharField(max_length=20, label="A word")
    note = serializers.CharField(
        required=False, allow_blank=True, style={"base_template": "textarea.html"}
    )
    shape = serializers.ChoiceField([("csv", "Table"), ("json", "Tree")], default="csv")
    colour = serializers.ChoiceField(["red", "blue"], required=False)
    letters = serializers.MultipleChoiceField(choices=["a", "b", "c"], required=False)
    names = serializers.ListField(
        child=serializers.CharField(max_length=5), required=False
    )
    parts = serializers.ListField(
        child=serializers.ChoiceField([("x", "Ex"), ("y", "Why")]), required=False
    )
    careful = serializers.BooleanField(default=True)
    on = serializers.DateField(required=False)
    file = serializers.FileField(required=False)
    secret = serializers.HiddenField(default="kept")
    computed = serializers.CharField(read_only=True)

    def validate(self, values: Any) -> Any:
        if values["share"] > values["size"]:
            raise serializers.ValidationError("The share is above the size.")
        return values


GOOD = "share=0.5&word=bolt"


@pytest.fixture
def task() -> Task:
    """One with every kind of parameter, which is not in the registry."""
    return Task("all", print, Everything, "All", 1, 1, 0, lambda user: True)


def sent(task: Task, text: str, **files: Any) -> TaskForm:
    return TaskForm(task, QueryDict(text), MultiValueDict(files))


def test_form_has_a_control_for_each_kind_of_parameter(task):
    form = TaskForm(task)
    controls = {field.name: str(field) for field in form}
    expected = {
        "size": ('type="number"', 'value="5000"', 'min="1"', 'max="100000"'),
        "share": ('step="any"', 'min="0"'),
        "price": ('step="any"',),
        "word": ('maxlength="20"',),
        "note": ("<textarea",),
        "shape": ('<option value="csv" selected>Table',),
        "colour": ("<option",) * 3,
        "letters": ('type="checkbox"',) * 3,
        "names": ("<textarea",),
        "parts": ('type="checkbox"',) * 2,
        "careful": ("checked",),
        "on": ('type="date"',),
        "file": ('type="file"',),
    }
    assert list(controls) == list(expected)
    for name, parts in expected.items():
        for part in parts:
            assert controls[name].count(part) == parts.count(part)
    optional = {field.name for field in form if not field.field.required}
    assert optional == {*expected} - {"size", "share", "word", "shape"}
    assert form["word"].label == "A word"
    assert form.is_multipart()
    assert not TaskForm(echo).is_multipart()


def test_form_returns_the_values_of_the_serializer(task):
    form = sent(
        task,
        f"{GOOD}&size=&shape=json&letters=c&letters=a&names=one%0D%0A%0D%0A two "
        "&parts=y&on=2026-02-28&colour=&price=1.5&computed=me",
        file=[SimpleUploadedFile("a.csv", b"name")],
    )
    assert form.is_valid(), form.errors
    values = form.cleaned_data
    assert values.pop("file").read() == b"name"
    assert values.pop("on").isoformat() == "2026-02-28"
    assert str(values.pop("price")) == "1.50"
    assert values == {
        "size": 5_000, "share": 0.5, "word": "bolt", "shape": "json",
        "letters": ["c", "a"], "names": ["one", "two"], "parts": ["y"],
        "secret": "kept",
        "careful": False,  # an unchecked box, whatever the default
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ("size=0", "size"),
        ("size=9" + "9" * 5000, "size"),
        ("share=nan", "share"),
        ("share=6000", "__all__"),
        ("word=" + "x" * 21, "word"),
        ("shape=round", "shape"),
        ("letters=d", "letters"),
        ("names=one%0Atoolong", "names"),
        ("parts=z", "parts"),
        ("on=yesterday", "on"),
        ("file=text", "file"),
    ],
    ids=lambda value: value[:16],
)
def test_form_error_is_at_its_field_and_input_is_kept(task, bad, field):
    form = sent(task, f"{GOOD}&{bad}")
    assert not form.is_valid()
    assert list(form.errors) == [field]
    name, _, value = bad.partition("=")
    kept = value.replace("%0A", "\n") in str(form[name])
    assert kept or name in ("shape", "letters", "parts", "file")


def test_optional_list_may_be_left_out_and_has_an_error_for_each_element(task):
    form = sent(task, f"{GOOD}&names=%0D%0A")
    assert form.is_valid(), form.errors
    assert "names" not in form.cleaned_data
    form = sent(task, f"{GOOD}&names=toolong%0Aone%0Aaslong")
    long = "Ensure this field has no more than 5 characters."
    assert form.errors["names"] == [f"1: {long}", f"3: {long}"]
    assert "toolong\none" in str(TaskForm(task, initial={"names": ["toolong", "one"]}))


def test_parameters_are_displayed_with_the_labels_of_the_form(task, monkeypatch):
    monkeypatch.setitem(tasks, "all", task)
    params = {
        "old_one": "x", "note": "", "shape": "json", "letters": ["a", "b"],
        "parts": ["y"], "word": "bolt", "size": 5,
    }  # fmt: skip
    assert display_params(Job(task="all", params=params)) == [
        ("Size", 5),
        ("A word", "bolt"),
        ("Shape", "Tree"),
        ("Letters", "a, b"),
        ("Parts", "Why"),
        ("Old one", "x"),
    ]
    assert display_params(Job(task="gone", params={"size": 5})) == [("Size", 5)]


@pytest.mark.parametrize(("given", "is_checked"), [("false", False), ("true", True)])
def test_link_to_a_form_says_whether_a_box_is_checked(given, is_checked):
    form = str(TaskForm(get_task("export_items"), initial={"flat": given}))
    assert ("checked" in form) is is_checked
