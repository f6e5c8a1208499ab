from django.contrib.auth.views import LogoutView
from django.urls import path

from resilient_site import account

app_name = "account"

urlpatterns = [
    path("sign-in/", account.SignIn.as_view(), name="sign-in"),
    path("sign-out/", LogoutView.as_view(), name="sign-out"),
    path("tokens/", account.tokens, name="tokens"),
    path("tokens/<str:key>/revoke/", account.revoke, name="revoke-token"),
]
