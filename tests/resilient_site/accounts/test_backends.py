import pytest
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser, Group, Permission, User

pytestmark = [pytest.mark.once, pytest.mark.django_db]


def make_user(*, own: str = "", of_group: str = "", **fields: bool) -> User:
    user = User.objects.create_user("ada", **fields)
    if own:
        user.user_permissions.add(Permission.objects.get(codename=own))
    if of_group:
        group = Group.objects.create(name="some")
        group.permissions.add(Permission.objects.get(codename=of_group))
        user.groups.add(group)
    return User.objects.get(pk=user.pk)


@pytest.mark.parametrize(
    ("kind", "queries"),
    [
        ({}, 1),
        ({"own": "add_item"}, 1),
        ({"of_group": "add_item"}, 1),
        ({"own": "add_item", "of_group": "add_item"}, 1),
        ({"own": "add_item", "of_group": "change_item"}, 1),
        ({"own": "add_item", "is_active": False}, 0),
    ],
)
def test_all_permissions_are_those_of_django_by_one_query(
    kind, queries, django_assert_num_queries
):
    user = make_user(**kind)
    expected = ModelBackend().get_all_permissions(User.objects.get(pk=user.pk))
    with django_assert_num_queries(queries):
        assert user.has_perm("items.add_item") is ("items.add_item" in expected)
        assert user.has_perm("items.delete_item") is False
        assert user.has_module_perms("items") is any(
            name.startswith("items.") for name in expected
        )
        assert user.get_all_permissions() == expected
        # Of single objects there are none.
        assert not user.has_perm("items.add_item", obj=user)


def test_superusers_may_do_all_and_nobody_nothing():
    assert make_user(is_superuser=True).has_perm("items.add_item")
    assert not AnonymousUser().has_perm("items.add_item")
    assert len(User.objects.get().get_all_permissions()) == Permission.objects.count()
