// The pages work without this file; it makes some of them more pleasant.

// Filters that are not set stay out of the address.
document.addEventListener("formdata", ({ target, formData }) => {
  if (target.id !== "filters") return;
  for (const name of new Set(formData.keys())) {
    const values = formData.getAll(name).filter(Boolean);
    formData.delete(name);
    for (const value of values) formData.append(name, value);
  }
});

// What is on the page stays when the server cannot answer, with a word about it.
function tell(event) {
  const { elt, xhr } = event.detail;
  const page = new DOMParser().parseFromString(xhr.responseText, "text/html");
  const detail = page.getElementById("error-detail");
  const trouble = document.getElementById("trouble");
  const wait = Number(xhr.getResponseHeader("Retry-After")) || (xhr.status ? 0 : 5);
  trouble.textContent = detail?.textContent ?? "The site does not answer at the moment.";
  trouble.hidden = false;
  if (wait && elt.matches("[data-retry]")) {
    trouble.textContent += ` Trying again in ${wait} second${wait === 1 ? "" : "s"}.`;
    setTimeout(() => elt.isConnected && htmx.trigger(elt, "retry"), wait * 1000);
  }
}
for (const name of ["responseError", "sendError", "timeout"]) {
  document.addEventListener(`htmx:${name}`, tell);
}
document.addEventListener("htmx:beforeSwap", () => {
  document.getElementById("trouble").hidden = true;
});

document.addEventListener("DOMContentLoaded", () => {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
      button.textContent = "Copied";
    });
  }
});
