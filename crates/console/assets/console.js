// What pages do beyond HTML: the code in the link of `console login`, keys, and fresh facts on pages
// that show them. Without it everything works by typing the code and reloading.
"use strict";
(() => {
  const policy = window.trustedTypes
    ? trustedTypes.createPolicy("signet", { createHTML: (text) => text })
    : { createHTML: (text) => text };
  const main = () => document.getElementById("main");

  // The code stands behind a #, which browsers send to nobody.
  const login = document.getElementById("login");
  if (login && location.hash.length > 1) {
    login.elements.code.value = decodeURIComponent(location.hash.slice(1));
    history.replaceState(null, "", location.pathname);
    login.submit();
    return;
  }

  // A page of facts is fetched again while somebody looks at it and is not busy in it.
  const refresh = async () => {
    const here = main();
    if (!here || !("live" in here.dataset) || document.hidden) return;
    if (here.contains(document.activeElement) && document.activeElement !== here) return;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (!answer.ok) return;
      const next = new DOMParser()
        .parseFromString(policy.createHTML(await answer.text()), "text/html")
        .getElementById("main");
      if (next && next.innerHTML !== here.innerHTML) here.replaceChildren(...next.childNodes);
    } catch {
      // The server is away; the page says what it said.
    }
  };
  setInterval(refresh, 5000);

  let waiting = false;
  const rows = () => [...document.querySelectorAll("table.rows tbody a")];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) return;
    if (waiting) {
      waiting = false;
      const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
      if (link) link.click();
      return;
    }
    const links = rows();
    const at = links.indexOf(document.activeElement);
    switch (event.key) {
      case "g": waiting = true; break;
      case "/": document.querySelector("[data-search]")?.focus(); break;
      case "j": links[Math.min(at + 1, links.length - 1)]?.focus(); break;
      case "k": links[Math.max(at - 1, 0)]?.focus(); break;
      case "?": document.getElementById("keys").showModal(); break;
      default: return;
    }
    event.preventDefault();
  });
})();
