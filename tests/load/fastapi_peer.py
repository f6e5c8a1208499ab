"""The peer: a FastAPI demo that keeps items in a dictionary."""

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel


class Item(BaseModel):
    id: str
    name: str
    description: str = ""


app = FastAPI()
items = {"1": Item(id="1", name="Germany", description="A country")}


@app.get("/items/{item_id}")
async def read_item(item_id: str) -> Item:
    if item_id not in items:
        raise HTTPException(404, "Item not found")
    return items[item_id]
