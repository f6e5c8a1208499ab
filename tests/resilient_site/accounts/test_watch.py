"""Changes without a signal end what was stored for a person, too."""

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.contrib.sessions.models import Session

from resilient_site.accounts.verified_tokens import VerifiedTokens, session_digest
from resilient_site.accounts.watch import AccountWatch
from resilient_site.edge.cache.invalidation import (
    PRECISION_NS,
    invalidations,
    mark,
    now,
)
from resilient_site.models import ApiToken
from resilient_site.resilience.cache_control import credential_tag, user_tag

pytestmark = [pytest.mark.once, pytest.mark.django_db]

CHANGES = {
    "deactivated": lambda pk: User.objects.filter(pk=pk).update(is_active=False),
    "password": lambda pk: User.objects.filter(pk=pk).update(password="x"),
    "no longer superuser": lambda pk: User.objects.filter(pk=pk).update(
        is_superuser=False
    ),
    "left a group": lambda pk: User.groups.through.objects.filter(user=pk)._raw_delete(
        "default"
    ),
    "permission of a group": lambda pk: (
        Group.permissions.through.objects.all()._raw_delete("default")
    ),
    "own permission": lambda pk: User.user_permissions.through.objects.filter(
        user=pk
    )._raw_delete("default"),
    "token": lambda pk: ApiToken.objects.filter(user=pk)._raw_delete("default"),
    "session": lambda pk: Session.objects.all()._raw_delete("default"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_loss_without_a_signal_invalidates(client, editor, reader, change):
    editor.is_superuser = True
    editor.save()
    editor.user_permissions.add(Permission.objects.first())
    ApiToken.objects.create(editor)
    client.force_login(editor)
    key, register = client.session.session_key, VerifiedTokens()
    watch = AccountWatch(register)
    register.record_session(key, editor.pk, now())
    register.verify_token(ApiToken.objects.create(reader)[1].encode())
    tags = [user_tag(editor.pk), credential_tag(session_digest(key))]
    mine, others = mark(now(), tags), mark(now(), [user_tag(reader.pk)])
    watch.poll()
    ApiToken.objects.create(reader)  # what is gained invalidates nothing
    watch.poll()
    assert invalidations.is_current(mine)
    change(editor.pk)
    watch.poll()
    assert not invalidations.is_current(mine)
    assert invalidations.is_current(others)


def test_person_who_is_gone_before_the_first_look_is_noticed(editor):
    register, mine = VerifiedTokens(), mark(now(), [user_tag(editor.pk)])
    register.record_session("a" * 32, editor.pk, now())
    CHANGES["deactivated"](editor.pk)
    AccountWatch(register).poll()
    assert not invalidations.is_current(mine)


def test_person_who_is_watched_no_longer_is_invalidated_once(editor):
    """As one that others have pushed out of the register."""
    register = VerifiedTokens()
    register.record_session("a" * 32, editor.pk, now())
    watch = AccountWatch(register)
    watch.poll()
    mine = mark(now(), [user_tag(editor.pk)])
    register.forget_session("a" * 32)
    watch.poll()
    assert not invalidations.is_current(mine)
    later = mark(now() + PRECISION_NS + 1, [user_tag(editor.pk)])
    watch.poll()
    assert invalidations.is_current(later)


def test_watch_asks_a_few_queries_for_all(editor, django_assert_num_queries):
    register = VerifiedTokens()
    for n in range(50):
        register.record_session(f"session{n}", editor.pk + n, now())
    with django_assert_num_queries(5):
        AccountWatch(register).poll()
    assert register.people_and_sessions() == (set(), [])  # there are no such sessions
