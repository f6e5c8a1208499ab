from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from resilient_site import account

app_name = "account"

sign_in = LoginView.as_view(
    template_name="account/sign_in.html", redirect_authenticated_user=True
)

urlpatterns = [
    path("sign-in/", sign_in, name="sign-in"),
    path("sign-out/", LogoutView.as_view(), name="sign-out"),
    path("tokens/", account.tokens, name="tokens"),
    path("tokens/<str:key>/revoke/", account.revoke, name="revoke-token"),
]
