"""The peer: a FastAPI demo that keeps items in a dictionary."""

from datetime import UTC, date, datetime

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel


class Item(BaseModel):
    id: str
    name: str
    description: str = ""


class Successor(BaseModel):
    id: str
    code: str
    label: str


class Lookup(BaseModel):
    code: str
    found: bool = True
    id: str
    label: str
    language: str | None = None
    status: str = "active"
    valid: bool = True
    valid_on: date
    successor: Successor | None = None


class Unknown(BaseModel):
    code: str
    found: bool = False


class Codes(BaseModel):
    codes: list[str]


class Lookups(BaseModel):
    results: list[Lookup | Unknown]


app = FastAPI()
items = {
    str(n): Item(id=str(n), name="Germany", description="A country")
    for n in range(1, 5_001)
}


@app.get("/items/{item_id}")
async def read_item(item_id: str) -> Item:
    if item_id not in items:
        raise HTTPException(404, "Item not found")
    return items[item_id]


@app.get("/lookup")
async def look_up(code: str) -> Lookup:
    if code not in items:
        raise HTTPException(404, "Code unknown")
    return Lookup(
        code=code, id=code, label=items[code].name, valid_on=datetime.now(UTC).date()
    )


@app.post("/lookup")
async def look_up_many(asked: Codes) -> Lookups:
    today = datetime.now(UTC).date()
    return Lookups(
        results=[
            Lookup(code=code, id=code, label=items[code].name, valid_on=today)
            if code in items
            else Unknown(code=code)
            for code in asked.codes
        ]
    )
