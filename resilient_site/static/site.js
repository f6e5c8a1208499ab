// The pages work without this file; it makes some of them more pleasant.

// Filters that are not set stay out of the URL.
document.addEventListener("formdata", ({ target, formData }) => {
  if (target.id !== "filters") return;
  for (const name of new Set(formData.keys())) {
    const values = formData.getAll(name).filter(Boolean);
    formData.delete(name);
    for (const value of values) formData.append(name, value);
  }
});

// When the server cannot answer, the page stays as it is, with a notice above it.
function showTrouble(event) {
  const { elt, xhr } = event.detail;
  const page = new DOMParser().parseFromString(xhr.responseText, "text/html");
  const detail = page.getElementById("error-detail");
  const trouble = document.getElementById("trouble");
  const wait = Number(xhr.getResponseHeader("Retry-After")) || (xhr.status ? 0 : 5);
  trouble.textContent = detail?.textContent ?? "The site does not respond at the moment. Check your connection.";
  trouble.hidden = false;
  if (wait && elt.matches("[data-retry]")) {
    trouble.textContent += ` Trying again in ${wait} second${wait === 1 ? "" : "s"}.`;
    setTimeout(() => elt.isConnected && htmx.trigger(elt, "retry"), wait * 1000);
  }
}
for (const name of ["responseError", "sendError", "timeout"]) {
  document.addEventListener(`htmx:${name}`, showTrouble);
}
document.addEventListener("htmx:beforeSwap", () => {
  document.getElementById("trouble").hidden = true;
});

// Rows of inputs are added and removed at once; without this file the server does it.
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-add], [data-remove]");
  const list = button?.closest("fieldset").querySelector("[data-rows]");
  if (!list) return;
  event.preventDefault();
  const isAdded = "add" in button.dataset;
  const row = isAdded ? list.lastElementChild.cloneNode(true) : button.closest("li");
  const inputs = row.querySelectorAll("input");
  if (isAdded) {
    list.append(row);
    htmx.process(row);
  } else if (list.children.length > 1) {
    row.remove();
  }
  if (isAdded || row.isConnected) for (const input of inputs) input.value = "";
  [...list.children].forEach((one, place) => {
    const remove = one.querySelector("[data-remove]");
    remove.value = remove.value.replace(/\d+$/, place);
    for (const named of one.children) named.ariaLabel = named.ariaLabel.replace(/\d+/, place + 1);
  });
  (isAdded ? row : list.lastElementChild).querySelector("input, select").focus();
});

// A second click does not start a second job; after 5 seconds it may.
const ONCE_MS = 5000;
document.addEventListener("submit", (event) => {
  const { dataset } = event.target;
  if (!("once" in dataset)) return;
  if (dataset.once && event.timeStamp - dataset.once < ONCE_MS) event.preventDefault();
  else dataset.once = event.timeStamp;
});
window.addEventListener("pageshow", () => {
  for (const { dataset } of document.querySelectorAll("[data-once]")) dataset.once = "";
});

// The page of a job follows its events; where none arrive, it polls.
const SILENCE_MS = 5000;
const POLL_MS = 2000;
function follow(part) {
  const shown = () => part.querySelector("[data-state]").dataset;
  let source, silence, polling, isAlive;
  let announced = shown().says;
  const isOver = () => "finished" in shown();
  const reload = () => htmx.trigger(part, "reload");

  function stop() {
    source?.close();
    clearTimeout(silence);
    clearInterval(polling);
  }
  function poll() {
    stop();
    polling = setInterval(reload, POLL_MS);
  }
  function start() {
    stop();
    // A hidden page frees its connection: a browser has few.
    if (isOver() || document.hidden) return;
    if (!window.EventSource) return poll();
    isAlive = false;
    source = new EventSource(part.dataset.events);
    silence = setTimeout(poll, SILENCE_MS);
    source.addEventListener("job", ({ data }) => show(JSON.parse(data)));
    source.addEventListener("error", () => {
      if (!isAlive || source.readyState === EventSource.CLOSED) poll();
    });
  }
  function show({ state, attempts, progress }) {
    isAlive = true;
    clearTimeout(silence);
    const bar = part.querySelector("#progress");
    if (state !== shown().state || String(attempts) !== shown().attempts) return reload();
    if (!bar) return;
    const percent = Math.floor(progress.fraction * 100);
    bar.value = percent;
    part.querySelector("[data-percent]").textContent = `${percent} %`;
    part.querySelector("[data-message]").textContent = progress.message;
  }
  part.addEventListener("htmx:afterSwap", () => {
    const { says } = shown();
    // What the page said when it was loaded is not announced.
    if (says !== announced) document.getElementById("announcer").textContent = announced = says;
    if (isOver()) stop();
  });
  // A job that was deleted, or is not the user's, is not requested again.
  part.addEventListener("htmx:responseError", ({ detail }) => detail.xhr.status < 429 && stop());
  document.addEventListener("visibilitychange", start);
  start();
}

document.addEventListener("DOMContentLoaded", () => {
  for (const part of document.querySelectorAll("[data-events]")) follow(part);
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
      button.textContent = "Copied";
    });
  }
});
