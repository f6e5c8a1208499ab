// The status page renews itself. Without this file it is reloaded by its link.

const EVERY_MS = 5000;
const PATIENCE_MS = 4000;
const here = document.getElementById("status");
const announcer = document.getElementById("status-announcer");
const trouble = document.getElementById("trouble");

async function renew() {
  // Hidden, or somebody is about to press a button: it stays as it is.
  if (document.hidden || here.contains(document.activeElement)) return;
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(PATIENCE_MS) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    show(page.getElementById("status"));
    trouble.hidden = true;
  } catch {
    trouble.textContent = "The site does not answer. What you see may be out of date.";
    trouble.hidden = false;
  }
}

function show(fresh) {
  if (here.contains(document.activeElement)) return;
  if (fresh.dataset.says !== here.dataset.says) announcer.textContent = fresh.dataset.says;
  here.dataset.says = fresh.dataset.says;
  here.replaceChildren(...fresh.childNodes);
}

document.querySelector("[data-renews]").hidden = false;
setInterval(renew, EVERY_MS);
document.addEventListener("visibilitychange", renew);
