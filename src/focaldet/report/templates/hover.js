"use strict";
// A tooltip with the text of a box and the distributions of its sides, on hover, tap and focus.
// The page also works without it: each box has a title.
(() => {
  const tip = document.getElementById("tip");
  const make = (name, attributes, ...children) => {
    const svg = name === "svg" || name === "path";
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  // Bars starting at bin 0; the highest is 20 units high.
  const bars = (side) => {
    const values = side.split(" ").map(Number);
    const top = Math.max(1, ...values);
    const path = values.map((value, i) => `M${6 * i} 20h5v${(-20 * value) / top}h-5z`).join("");
    return make("svg", { viewBox: `0 0 ${6 * values.length} 20`, "aria-hidden": "true" }, make("path", { d: path }));
  };
  const distributions = (box) => {
    if (!box.dataset.sides) return [];
    const names = ["left", "top", "right", "bottom"];
    const rows = box.dataset.sides.split(",").map((side, i) => make("div", {}, make("span", {}, names[i]), bars(side)));
    return [make("div", { class: "sides" }, ...rows)];
  };
  const show = (box) => {
    const lines = box.getAttribute("aria-label").split("; ").map((line) => make("div", {}, line));
    tip.replaceChildren(...lines, ...distributions(box));
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
  addEventListener("scroll", hide, { passive: true, capture: true });
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
