"use strict";
// Send a photo to /predict unchanged and draw its boxes over it. External data is inserted as text, never as markup.
(() => {
  const byId = (id) => document.getElementById(id);
  const model = JSON.parse(byId("model").textContent);
  const [drop, file, status, result, least, photo, boxes, rows] =
    ["drop", "file", "status", "result", "least", "photo", "boxes", "rows"].map(byId);
  let prediction = null;
  let asked = 0;
  let moved = false; // until then each class has the threshold of the server

  const say = (words, bad = false) => {
    status.textContent = words;
    status.className = bad ? "bad" : "";
  };

  const svg = (name, attributes, children = []) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  const bands = ([x1, y1, x2, y2], [left, top, right, bottom]) =>
    [[x1 - left, y1, x1 + left, y2], [x1, y1 - top, x2, y1 + top],
     [x2 - right, y1, x2 + right, y2], [x1, y2 - bottom, x2, y2 + bottom]]
      .map(([a, b, c, d]) => `M${a} ${b}H${c}V${d}H${a}Z`).join("");

  const drawn = (box) => {
    const [x1, y1, x2, y2] = box.box_xyxy;
    const place = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    const group = svg("g", { class: "box" }, [
      ...(box.side_std_px ? [svg("path", { class: "bands", d: bands(box.box_xyxy, box.side_std_px) })] : []),
      svg("rect", { class: "rim", ...place }),
      svg("rect", { class: "line", ...place }),
    ]);
    group.style.setProperty("--c", model.colors[box.label]);
    const title = svg("title", {});
    title.textContent = `${box.name} ${box.score.toFixed(2)}`;
    group.prepend(title);
    return group;
  };

  const listed = (box) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.setProperty("--c", model.colors[box.label]);
    head.append(swatch, box.name);
    row.append(head);
    for (const value of [box.score.toFixed(2), ...(box.side_std_px || Array(4).fill(null)).map((v) => v === null ? "–" : v.toFixed(1))]) {
      const cell = document.createElement("td");
      cell.className = "n";
      cell.textContent = value;
      row.append(cell);
    }
    return row;
  };

  const show = () => {
    const from = Number(least.value);
    const same = Math.min(...model.least) === Math.max(...model.least);
    byId("least-value").textContent = moved || same ? from.toFixed(2) : "by class";
    const kept = prediction.boxes.filter((box) => box.score >= (moved ? from : model.least[box.label]));
    const area = ({ box_xyxy: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    const pairs = kept.map((box) => ({ box, group: drawn(box), row: listed(box) }));
    for (const { group, row } of pairs) {
      for (const [part, on] of [[group, "mouseenter"], [row, "mouseenter"], [group, "mouseleave"], [row, "mouseleave"]]) {
        part.addEventListener(on, () => [group, row].forEach((one) => one.classList.toggle("on", on === "mouseenter")));
      }
    }
    boxes.setAttribute("viewBox", `0 0 ${prediction.width} ${prediction.height}`);
    boxes.replaceChildren(...[...pairs].sort((a, b) => area(b.box) - area(a.box)).map(({ group }) => group)); // small ones on top
    rows.replaceChildren(...pairs.map(({ row }) => row));
    const counts = new Map();
    for (const box of kept) counts.set(box.name, (counts.get(box.name) || 0) + 1);
    const words = [...counts].map(([name, count]) => `${name} × ${count}`).join(", ") || "no boxes";
    boxes.setAttribute("aria-label", `The photo with its boxes: ${words}`);
    say(`${words} (${prediction.milliseconds} ms)`);
  };

  const predict = async (chosen) => {
    const number = ++asked;
    say(`Detecting objects in ${chosen.name || "the photo"} …`);
    const start = performance.now();
    try {
      const answer = await fetch("predict?score=0", {
        method: "POST", body: chosen, headers: { "Content-Type": chosen.type || "application/octet-stream" },
      });
      const body = await answer.json();
      if (number !== asked) return; // another photo was chosen meanwhile
      if (!answer.ok) throw new Error(body.detail);
      prediction = { ...body, milliseconds: Math.round(performance.now() - start) };
    } catch (error) {
      if (number !== asked) return;
      result.hidden = true;
      say(error instanceof TypeError ? "The server did not respond." : error.message, true);
      return;
    }
    URL.revokeObjectURL(photo.src);
    photo.hidden = false;
    boxes.classList.remove("blank");
    photo.src = URL.createObjectURL(chosen);
    result.hidden = false;
    show();
  };

  // The server can read this format but the browser cannot: show the boxes without the photo.
  photo.addEventListener("error", () => { photo.hidden = true; boxes.classList.add("blank"); });
  least.addEventListener("input", () => { moved = true; show(); });
  file.addEventListener("change", () => { if (file.files.length) predict(file.files[0]); file.value = ""; });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault(); // a photo dropped outside the field must not replace the page
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) predict(event.dataTransfer.files[0]);
    });
  }
  addEventListener("paste", (event) => { if (event.clipboardData.files.length) predict(event.clipboardData.files[0]); });
})();
