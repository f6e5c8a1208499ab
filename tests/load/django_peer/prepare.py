"""Make the tables, a user and as many items as are said; print a token of that user."""

import sys

import django

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from rest_framework.authtoken.models import Token  # noqa: E402

from tests.load.django_peer.models import Item  # noqa: E402

call_command("migrate", run_syncdb=True, verbosity=0)
user = User.objects.create_user("edith")
Item.objects.bulk_create(
    Item(name="Germany", description="A country") for _ in range(int(sys.argv[1]))
)
print(Token.objects.create(user=user).key)
