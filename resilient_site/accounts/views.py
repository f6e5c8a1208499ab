"""Pages to sign in, and to create and revoke API tokens."""

from datetime import timedelta

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from resilient_site.edge.policy import policy
from resilient_site.models import ApiToken


@policy(write_rate="sign-in")
class SignIn(LoginView):
    template_name = "account/sign_in.html"
    redirect_authenticated_user = True

    def get_redirect_url(self, request: HttpRequest | None = None) -> str:
        url = super().get_redirect_url(request)
        # A redirect to this page would be a loop.
        return "" if url.startswith(self.request.path) else url


def attempted_username(
    request: HttpRequest, credentials: dict[str, str] | None = None
) -> str | None:
    """Return the username of a failed attempt, at the length that axes can store."""
    given = (credentials or request.POST).get("username")
    return given and given[:150]


class TokenForm(forms.Form):
    name = forms.CharField(
        max_length=100, help_text="The program that will use it, such as: nightly sync"
    )
    days = forms.TypedChoiceField(
        label="Valid for",
        coerce=int,
        choices=[(7, "7 days"), (30, "30 days"), (90, "90 days"), (365, "1 year")],
        initial=90,
    )


@policy(write_rate="tokens")
@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def tokens(request: HttpRequest) -> HttpResponse:
    form = TokenForm(request.POST if request.method == "POST" else None)
    fresh = None
    if request.method == "POST" and form.is_valid():
        _, fresh = ApiToken.objects.create(
            request.user,
            expiry=timedelta(days=form.cleaned_data["days"]),
            name=form.cleaned_data["name"],
        )
        form = TokenForm()
    own = ApiToken.objects.filter(user=request.user).order_by("-created")
    context = {"form": form, "fresh": fresh, "tokens": own, "now": timezone.now()}
    return render(request, "account/tokens.html", context)


@policy(write_rate="tokens")
@login_required
@require_POST
def revoke(request: HttpRequest, key: str) -> HttpResponse:
    deleted, _ = ApiToken.objects.filter(user=request.user, token_key=key).delete()
    if deleted:
        messages.success(request, "The token was revoked.")
    return redirect("account:tokens")
