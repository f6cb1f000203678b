// Follows what happens: when the server says that something changed, the page is asked for again and its live parts are replaced.
// Everything works without this file.
"use strict";
(() => {
  const parts = () => document.querySelectorAll("[data-live]");
  const button = document.querySelector("button[data-pause]");
  if (!window.EventSource || parts().length === 0 || !button) return;

  // A page that answers a form has another address than the page it shows.
  const here = document.querySelector("main").dataset.address ?? location.href;
  let source = null;
  let paused = false;
  let busy = false;

  const refresh = async () => {
    if (busy || paused || document.hidden) return;
    busy = true;
    try {
      const answer = await fetch(here, { redirect: "manual" });
      if (answer.type === "opaqueredirect") {
        location.reload();
        return;
      }
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of parts()) {
        const other = fresh.getElementById(part.id);
        // Whoever reads or types in a part is not disturbed.
        const inUse = part.contains(document.activeElement) || part.querySelector("details[open]");
        if (other && !inUse && other.innerHTML !== part.innerHTML) {
          part.replaceChildren(...other.childNodes);
        }
      }
    } catch {
      // The next event tries again.
    } finally {
      busy = false;
    }
  };

  const follow = () => {
    source = new EventSource("/console/live");
    source.addEventListener("changed", refresh);
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? button.dataset.resume : button.dataset.pause;
    if (paused) {
      source.close();
    } else {
      follow();
      refresh();
    }
  });
  document.addEventListener("visibilitychange", refresh);
  follow();
})();
