"""What a browser sends of a form that was not touched."""

from html.parser import HTMLParser


class _Form(HTMLParser):
    def __init__(self, form_id: str) -> None:
        super().__init__()
        self.form_id, self.is_inside = form_id, False
        self.sent: list[tuple[str, str]] = []
        self.select: str | None = None
        self.options: list[tuple[str, bool]] = []
        self.textarea: str | None = None
        self.text = ""

    def handle_starttag(self, tag, found):
        attrs = dict(found)
        if tag == "form":
            self.is_inside = attrs.get("id") == self.form_id
        if not self.is_inside:
            return
        name, value = attrs.get("name"), attrs.get("value") or ""
        if tag == "select":
            self.select, self.options = name, []
        elif tag == "option" and self.select:
            self.options.append((value, "selected" in attrs))
        elif tag == "textarea":
            self.textarea, self.text = name, ""
        elif tag == "input" and name:
            self.sent.append((name, value.replace("\r", "").replace("\n", "")))

    def handle_data(self, data):
        if self.textarea:
            self.text += data

    def handle_endtag(self, tag):
        if tag == "form":
            self.is_inside = False
        elif tag == "select" and self.select:
            chosen = [value for value, is_selected in self.options if is_selected]
            first = [value for value, _ in self.options[:1]]
            self.sent += [(self.select, value) for value in (chosen or first)]
            self.select = None
        elif tag == "textarea" and self.textarea:
            text = self.text.removeprefix("\r").removeprefix("\n")
            self.sent.append((self.textarea, text))
            self.textarea = None


def untouched(html: str, form_id: str = "item-form") -> dict[str, list[str]]:
    form = _Form(form_id)
    form.feed(html)
    form.close()
    data: dict[str, list[str]] = {}
    for name, value in form.sent:
        lines = value.replace("\r\n", "\n").replace("\r", "\n")
        data.setdefault(name, []).append(lines.replace("\n", "\r\n"))
    return data
