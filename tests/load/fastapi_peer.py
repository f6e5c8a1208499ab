"""The peer: a FastAPI demo that keeps items in a dictionary."""

import asyncio

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel


class Item(BaseModel):
    id: str
    name: str
    description: str = ""


app = FastAPI()
items: dict[str, Item] = {}


@app.post("/items/", status_code=201)
async def create_item(item: Item) -> Item:
    items[item.id] = item
    return item


@app.get("/items/{item_id}")
async def read_item(item_id: str) -> Item:
    if item_id not in items:
        raise HTTPException(404, "Item not found")
    return items[item_id]


@app.get("/heavy_computation/")
async def heavy_computation() -> dict[str, str]:
    await asyncio.sleep(2)
    return {"result": "done"}
