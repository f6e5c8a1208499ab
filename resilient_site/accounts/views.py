"""Pages to sign in, to change the password, and to create and revoke API tokens."""

from datetime import timedelta
from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import authenticate, logout, update_session_auth_hash
from django.contrib.auth.decorators import login_not_required, login_required
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import password_validators_help_texts
from django.contrib.auth.views import LoginView
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from resilient_site.accounts.backends import remember_device
from resilient_site.edge.policy import policy
from resilient_site.models import ApiToken, TooManyTokens
from resilient_site.pages import carried_form


@policy(write_rate="sign-in")
@method_decorator(login_not_required, name="dispatch")
class SignIn(LoginView):
    template_name = "account/sign_in.html"
    extra_context = {"is_private": not settings.PUBLIC_READ}
    redirect_authenticated_user = True

    def get_redirect_url(self, request: HttpRequest | None = None) -> str:
        url = super().get_redirect_url(request)
        # A redirect to this page would be a loop.
        return "" if url.startswith(self.request.path) else url

    @method_decorator(login_not_required)  # as Django's, which this one replaces
    def dispatch(self, request: HttpRequest, *args: Any, **options: Any) -> Any:
        # Signed in meanwhile, in another window.
        if request.method == "POST" and request.user.is_authenticated:
            return self.show_again() or super().dispatch(request, *args, **options)
        return super().dispatch(request, *args, **options)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        response = super().form_valid(form)
        response = self.show_again() or response
        remember_device(response, form.get_user().get_username())
        return response

    def get_context_data(self, **options: Any) -> dict[str, Any]:
        return super().get_context_data(**options, sent=carried_form(self.request))

    def show_again(self) -> HttpResponse | None:
        """Return the form that was sent without a session, for the person to send."""
        path, sent = self.get_redirect_url(), carried_form(self.request)
        if not path or sent is None:
            return None
        context = {"path": path, "sent": sent}
        headers = {"Cache-Control": "no-store"}
        page = render_to_string("account/sent_again.html", context, self.request)
        return HttpResponse(page, headers=headers)


@policy(write_rate="sign-in")
@login_not_required
def admin_sign_in(request: HttpRequest) -> HttpResponse:
    response = admin.site.login(request)
    if request.method == "POST" and request.user.is_authenticated:
        remember_device(response, request.user.get_username())
    return response


def attempted_username(
    request: HttpRequest, credentials: dict[str, str] | None = None
) -> str | None:
    """Return the username of a failed attempt, at the length that axes can store."""
    given = (credentials or request.POST).get("username")
    return given and given[:150]


class RevokeTokensForm(forms.Form):
    revoke_tokens = forms.BooleanField(label="Revoke my API tokens too", required=False)


class PasswordForm(RevokeTokensForm, PasswordChangeForm):
    """Django's form, with a check of the password that counts towards the lock-out."""

    field_order = ("old_password", "new_password1", "new_password2", "revoke_tokens")

    def __init__(self, request: HttpRequest, *args: Any, **options: Any) -> None:
        self.request = request
        super().__init__(cast(User, request.user), *args, **options)
        # Django's is a list, which no paragraph can hold.
        self.fields["new_password1"].help_text = " ".join(
            password_validators_help_texts()
        )

    def clean_old_password(self) -> str:
        return _check_password(self.request, self.cleaned_data["old_password"])


class SignOutForm(RevokeTokensForm):
    password = forms.CharField(
        label="Your password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
    field_order = ("password", "revoke_tokens")

    def __init__(self, request: HttpRequest, *args: Any, **options: Any) -> None:
        self.request = request
        super().__init__(*args, **options)
        if not cast(User, request.user).has_usable_password():
            del self.fields["password"]

    def clean_password(self) -> str:
        return _check_password(self.request, self.cleaned_data["password"])


def _check_password(request: HttpRequest, password: str) -> str:
    if not authenticate(
        request, username=request.user.get_username(), password=password
    ):
        raise forms.ValidationError("This is not your password.")
    return password


@policy(write_rate="sign-in")
@sensitive_post_parameters()
@never_cache
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def security(request: HttpRequest) -> HttpResponse:
    """Page to change the password, which ends all other sessions."""
    form = PasswordForm(request, request.POST or None)
    if request.method != "POST" or not form.is_valid():
        return _render_security(request, form, SignOutForm(request, auto_id="out_%s"))
    with transaction.atomic():
        user = form.save()
        _revoke_if_asked(user, form)
        update_session_auth_hash(request, user)
    messages.success(request, "Your password was changed. Other sessions have ended.")
    return redirect("account:security")


@policy(write_rate="sign-in")
@sensitive_post_parameters()
@never_cache
@login_required
@require_POST
def sign_out_everywhere(request: HttpRequest) -> HttpResponse:
    """End all sessions of the account, this one included."""
    form = SignOutForm(request, request.POST, auto_id="out_%s")
    if not form.is_valid():
        return _render_security(request, PasswordForm(request), form)
    user = cast(User, request.user)
    with transaction.atomic():
        # A new salt for the same password: sessions hold a hash of both.
        user.set_password(form.cleaned_data.get("password"))
        user.save(update_fields=["password"])
        _revoke_if_asked(user, form)
    logout(request)
    messages.success(request, "You are signed out everywhere.")
    return redirect("account:sign-in")


def _render_security(
    request: HttpRequest, password_form: PasswordForm, sign_out_form: SignOutForm
) -> HttpResponse:
    forms = {"password_form": password_form, "sign_out_form": sign_out_form}
    return render(request, "account/security.html", forms)


def _revoke_if_asked(user: User, form: forms.Form) -> None:
    if form.cleaned_data["revoke_tokens"]:
        ApiToken.objects.filter(user=user).delete()


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
        try:
            _, fresh = ApiToken.objects.create(
                cast(User, request.user),
                expiry=timedelta(days=form.cleaned_data["days"]),
                name=form.cleaned_data["name"],
            )
            form = TokenForm()
        except TooManyTokens as error:
            form.add_error(None, error.detail)
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
