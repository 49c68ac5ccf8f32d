"use strict";
// The words of a box in a small panel, on hover, tap and focus. The page is complete without it: each box has a title.
(() => {
  const tip = document.getElementById("tip");
  const show = (box) => {
    tip.replaceChildren(...box.getAttribute("aria-label").split("; ").map((line) => {
      const row = document.createElement("div");
      row.textContent = line;
      return row;
    }));
    tip.hidden = false;
    const at = box.querySelector(".line").getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const above = at.top - size.height - 8;
    const top = above >= 4 ? above : Math.min(at.bottom + 8, innerHeight - size.height - 4);
    const left = Math.max(4, Math.min(at.left, document.documentElement.clientWidth - size.width - 4));
    tip.style.transform = `translate(${left}px, ${top}px)`;
  };
  const hide = () => { tip.hidden = true; };
  const boxOf = (event) => event.target.closest ? event.target.closest(".box") : null;
  document.querySelectorAll(".box > title").forEach((title) => title.remove());
  for (const kind of ["mouseover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => { const box = boxOf(event); if (box) show(box); else if (kind !== "focusin") hide(); });
  }
  document.addEventListener("focusout", hide);
  addEventListener("scroll", hide, { passive: true });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const box = boxOf(event);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!box || !step) return;
    const boxes = [...box.parentNode.querySelectorAll(".box")];
    const next = boxes[(boxes.indexOf(box) + step + boxes.length) % boxes.length];
    box.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
    event.preventDefault();
  });
})();
