from django.contrib.auth.views import LogoutView
from django.urls import path

from resilient_site.accounts import views

app_name = "account"

urlpatterns = [
    path("sign-in/", views.SignIn.as_view(), name="sign-in"),
    path("sign-out/", LogoutView.as_view(), name="sign-out"),
    path("security/", views.security, name="security"),
    path("sign-out-everywhere/", views.sign_out_everywhere, name="sign-out-everywhere"),
    path("tokens/", views.tokens, name="tokens"),
    path("tokens/<str:key>/revoke/", views.revoke, name="revoke-token"),
]
