// Refreshes the parts of a page that are marked `data-live`, every few seconds while somebody looks at it.
// Without it the browser loads the page anew.
"use strict";
const EVERY = 3000;

async function refresh() {
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (answer.redirected) return location.reload();
      if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      // The console is away; the next look tells.
    }
  }
  setTimeout(refresh, EVERY);
}

function show(page) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    // What somebody has the focus in, or reads out, must not go from under them.
    const isUsed = part.contains(document.activeElement) && part !== document.activeElement;
    if (!fresh || isUsed || part.innerHTML === fresh.innerHTML) continue;
    if (part.getAttribute("role") === "status" && part.textContent === fresh.textContent) continue;
    part.replaceChildren(...fresh.cloneNode(true).childNodes);
  }
  // Of a job that has ended, all is new: result, disclosures, what can be done.
  if (!page.querySelector("script[src]")) location.reload();
}

setTimeout(refresh, EVERY);
