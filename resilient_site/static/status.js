// Updates the status page. Without this file its link reloads it.

const EVERY_MS = 5000;
const TIMEOUT_MS = 4000;
const shown = document.getElementById("status");
const announcer = document.getElementById("status-announcer");
const trouble = document.getElementById("trouble");

async function update() {
  // While the page is hidden, or a button has the focus, it stays as it is.
  if (document.hidden || shown.contains(document.activeElement)) return;
  try {
    const response = await fetch(location.href, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    show(page.getElementById("status"));
    trouble.hidden = true;
  } catch {
    trouble.textContent = "The site does not answer. What you see may be out of date.";
    trouble.hidden = false;
  }
}

function show(fresh) {
  if (shown.contains(document.activeElement)) return;
  if (fresh.dataset.says !== shown.dataset.says) announcer.textContent = fresh.dataset.says;
  shown.dataset.says = fresh.dataset.says;
  shown.replaceChildren(...fresh.childNodes);
}

document.querySelector("[data-updates]").hidden = false;
setInterval(update, EVERY_MS);
document.addEventListener("visibilitychange", update);
