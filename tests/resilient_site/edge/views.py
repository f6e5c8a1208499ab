"""Views that the edge is tested with: a test sets how they respond."""

from collections.abc import Callable, Mapping, Sequence
from threading import Event
from types import SimpleNamespace
from typing import Any

import orjson
from django.http import (
    HttpRequest,
    HttpResponse,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.decorators import api_view, permission_classes
from rest_framework.request import Request
from rest_framework.views import APIView

from resilient_site import urls
from resilient_site.edge.policy import Batch, policy
from resilient_site.errors import PROBLEM_TYPE, NotFound, problem
from resilient_site.resilience.cache_control import OWN, Part, share, share_parts

# The requests so far, and what the view does.
now = SimpleNamespace()


def forget() -> None:
    vars(now).clear()
    vars(now).update(
        asked=[], groups=[], entered=Event(), go_on=Event(), respond=thing_now
    )
    now.go_on.set()


def note(request: HttpRequest | Request) -> dict[str, Any]:
    seen = {
        "query": request.META["QUERY_STRING"],
        "authorization": request.headers.get("Authorization"),
        "cookie": request.headers.get("Cookie"),
        "target": request.headers.get("HX-Target"),
        "range": request.headers.get("Range"),
    }
    now.asked.append(seen)
    return seen


def held(make: Callable[[], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Read first, then respond when the test sets `now.go_on`."""

    def respond(request: HttpRequest) -> HttpResponse:
        response = make()
        now.entered.set()
        assert now.go_on.wait(90)
        return response

    return respond


def thing_now(request: HttpRequest) -> HttpResponse:
    return thing_response(now.asked[-1])


def thing_response(content: Any, **headers: str) -> HttpResponse:
    response = JsonResponse(content, safe=False)
    share(response, "thing")
    for name, value in headers.items():
        response[name.replace("_", "-")] = value
    return response


def page_response(text: str = "") -> HttpResponse:
    response = HttpResponse(f"<main><!-- notice -->{text}</main>")
    share(response, "thing")
    return response


@policy(shared=("q", "tag"), shared_headers=("HX-Request", "HX-Target"))
def thing(request: HttpRequest, id: str = "") -> HttpResponse:
    note(request)
    response: HttpResponse = now.respond(request)
    return response


@csrf_exempt
def plain(request: HttpRequest) -> HttpResponse:
    note(request)
    if now.respond is not thing_now:
        return now.respond(request)
    return HttpResponse(f"{len(request.body)}")


def mine(request: HttpRequest | Request) -> HttpResponse:
    """A private response to an authenticated client."""
    note(request)
    if now.respond is not thing_now:
        return now.respond(request)
    if not request.user.is_authenticated:
        return HttpResponse("sign in", status=403)
    response = HttpResponse(f"of {request.user.get_username()}")
    response["Cache-Control"] = OWN
    return response


@policy(is_heavy=True)
def export(request: HttpRequest) -> StreamingHttpResponse:
    """More than every buffer holds."""
    return StreamingHttpResponse(b"x" * 100_000 for _ in range(1_000))


def rest(request: Request) -> HttpResponse:
    return mine(request)


@policy(shared=())
class Greeting(APIView):
    """Shared by the clients without a token."""

    permission_classes = ()

    def get(self, request: Request) -> HttpResponse:
        note(request)
        return thing_response(request.user.get_username(), Vary="Authorization")


class Words(APIView):
    """One word by GET, and many by POST; of an unknown one GET says 404."""

    permission_classes = ()

    @policy(shared=("case", "word"))
    def get(self, request: Request) -> HttpResponse:
        note(request)
        part = self.part(request, request.GET["word"], request.GET.get("case", ""))
        content_type = "application/json" if part.status == 200 else PROBLEM_TYPE
        response = HttpResponse(part.body, content_type, part.status)
        share(response, *part.tags)
        return response

    @policy(batch=Batch("words", "word", 5, {"known": False}), write_rate="read")
    def post(self, request: Request) -> HttpResponse:
        seen = note(request)
        if now.respond is not thing_now:
            return now.respond(request)
        words = seen["words"] = request.data["words"]
        case = request.data.get("case", "")
        parts = [self.part(request, word, case) for word in words]
        results = [
            orjson.loads(part.body)
            if part.status == 200
            else {"word": word, "known": False}
            for word, part in zip(words, parts, strict=True)
        ]
        response = JsonResponse({"results": results})
        response.content = orjson.dumps({"results": results})
        share_parts(response, parts)
        return response

    def part(self, request: Request, word: str, case: str) -> Part:
        if word.startswith("un"):
            error = NotFound("There is no such word.")
            document = problem(request, error) | {"request_id": ""}
            return Part(404, orjson.dumps(document), ["words"])
        result = {
            "word": word,
            "is": word.upper() if case else word,
            "n": len(now.asked),
        }
        return Part(200, orjson.dumps(result), [f"word:{word}"])


def read_rows(urls: Sequence[Mapping[str, str]]) -> list[Part | None]:
    now.groups.append([url["id"] for url in urls])
    if now.respond is not thing_now:
        now.respond(None)
    return [None if url["id"].startswith("un") else row_part(url["id"]) for url in urls]


def row_part(id: str) -> Part:
    response = HttpResponse()
    share(response, f"row:{id}")
    headers = [("ETag", f'"{id}"'), ("Cache-Control", response["Cache-Control"])]
    return Part(200, orjson.dumps({"id": id}), [f"row:{id}"], headers)


@policy(shared=("q",), read_many=read_rows)
def row(request: HttpRequest, id: str) -> HttpResponse:
    note(request)
    if id.startswith("un"):
        raise NotFound
    part = row_part(id)
    response = HttpResponse(part.body, "application/json")
    share(response, *part.tags)
    response["ETag"] = part.headers[0][1]
    return response


urlpatterns = [
    path("api/v1/rows/<str:id>", row),
    path("api/v1/words", Words.as_view()),
    path("thing", thing),
    path("thing/<path:id>", thing),
    path("plain", plain),
    path("jobs/new/", plain),
    path("mine", mine),
    path("export", export),
    path("api/v1/greeting", Greeting.as_view()),
    path("api/v1/mine", api_view(["GET", "HEAD"])(permission_classes([])(rest))),
    *urls.urlpatterns,  # the error page names some of these
]
handler404 = "resilient_site.errors.respond_to_exception"
handler500 = "resilient_site.errors.server_error"
