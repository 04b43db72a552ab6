"use strict";
// Replaces the live parts of the page by those of a fresh copy. Without this script the page is complete and does not change.
(() => {
  const EVERY = 5000, TYPING = 250;
  const form = document.querySelector("form");
  let timer, newest = 0;

  const address = () => {
    const query = new URLSearchParams(new FormData(form));
    for (const [name, value] of [...query]) if (!value || (name === "sort" && value === "status")) query.delete(name);
    return `${location.pathname}?${query}`;
  };

  const replace = (part, fresh) => {
    const focused = part.contains(document.activeElement) && document.activeElement.getAttribute("href");
    const copy = document.importNode(fresh, true);
    part.replaceWith(copy);
    if (focused) [...copy.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus({ preventScroll: true });
  };

  const refresh = async () => {
    clearTimeout(timer);
    const mine = ++newest;
    try {
      const response = await fetch(location.href, { signal: AbortSignal.timeout(2 * EVERY) });
      if (!response.ok) throw new Error(response.statusText);
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      // A newer refresh is under way; or the visitor is about to copy something.
      if (mine !== newest) return;
      if (getSelection().isCollapsed) {
        for (const part of document.querySelectorAll("[data-live]")) {
          const its = fresh.getElementById(part.id);
          if (its && !its.isEqualNode(part)) replace(part, its);
        }
        document.title = fresh.title;
      }
      document.body.classList.remove("unreachable");
    } catch {
      if (mine !== newest) return;
      document.body.classList.add("unreachable");
    }
    if (!document.hidden) timer = setTimeout(refresh, EVERY);
  };

  const wanted = (delay) => {
    clearTimeout(timer);
    timer = setTimeout(() => { history.replaceState(null, "", address()); refresh(); }, delay);
  };

  document.body.classList.add("live");
  form?.addEventListener("input", () => wanted(TYPING));
  form?.addEventListener("submit", (event) => { event.preventDefault(); wanted(0); });
  document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : refresh());
  timer = setTimeout(refresh, EVERY);
})();
