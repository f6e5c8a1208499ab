"""The same by Django Ninja."""

from datetime import datetime

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import NinjaAPI, Schema, Status
from ninja.security import HttpBearer
from rest_framework.authtoken.models import Token

from tests.load.django_peer.models import Item


class ItemIn(Schema):
    name: str
    description: str = ""


class ItemOut(ItemIn):
    id: int
    created_at: datetime
    updated_at: datetime


class ByToken(HttpBearer):
    def authenticate(self, request: HttpRequest, token: str) -> object:
        found = Token.objects.select_related("user").filter(key=token).first()
        return found and found.user


def no_credentials(request: HttpRequest) -> bool:
    return "Authorization" not in request.headers


api = NinjaAPI(auth=ByToken(), docs_url=None)


@api.get("items/{int:item_id}", response=ItemOut, auth=[no_credentials, ByToken()])
def read(request: HttpRequest, item_id: int) -> Item:
    return get_object_or_404(Item, pk=item_id)


@api.post("items/", response={201: ItemOut})
def create(request: HttpRequest, data: ItemIn) -> Status:
    return Status(201, Item.objects.create(**data.dict()))


@api.put("items/{int:item_id}", response=ItemOut)
def update(request: HttpRequest, item_id: int, data: ItemIn) -> Item:
    item = get_object_or_404(Item, pk=item_id)
    item.name, item.description = data.name, data.description
    item.save()
    return item


@api.post("items/bulk", response={201: list[ItemOut]})
def create_many(request: HttpRequest, rows: list[ItemIn]) -> Status:
    items = Item.objects.bulk_create(Item(**row.dict()) for row in rows)
    return Status(201, items)
