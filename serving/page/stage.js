// The photo with the objects of the shown task. An object is highlighted in the photo and in the list together.

import { byId, make } from "./dom.js";
import { objectAt, paint } from "./draw.js";
import { placed, state } from "./state.js";
import { census } from "./tasks.js";

const canvas = byId("canvas");
const context = canvas.getContext("2d");

/** Render the photo, or the prompt to choose one. */
export function renderStage() {
  const { photo } = state;
  const waits = [...state.asked.values()].some((one) => !one.rows && !one.trouble);
  const drawable = Boolean(photo?.bitmap);
  byId("stage").dataset.state = photo && (photo.size || waits) ? "photo" : "empty";
  byId("working").hidden = !waits;
  byId("blind").hidden = !photo || drawable || !state.asked.get(state.shown)?.rows;
  canvas.hidden = byId("save").hidden = !drawable;
  if (drawable) draw();
}

function draw() {
  const { photo } = state;
  if (!photo?.bitmap) return;
  const room = byId("stage").clientWidth;
  const scale = Math.min(room / photo.size.width, Math.max(320, 0.72 * innerHeight) / photo.size.height);
  const [width, height] = [photo.size.width * scale, photo.size.height * scale];
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  // Setting the size clears the canvas, even if it stays the same.
  const [wide, high] = [Math.round(width * devicePixelRatio), Math.round(height * devicePixelRatio)];
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== high) canvas.height = high;
  const objects = placed();
  const lit = objects.includes(state.lit) ? state.lit : null;
  paint(context, photo.bitmap, photo.size, objects, { unit: devicePixelRatio, lit });
  const found = objects.length ? `Photo with ${census(objects)} marked` : "Photo, nothing marked";
  if (canvas.getAttribute("aria-label") !== found) canvas.setAttribute("aria-label", found);
}

function light(row) {
  if (state.lit === row) return;
  state.lit = row;
  for (const element of byId("rows").querySelectorAll("button")) element.classList.toggle("lit", element.row === row);
  canvas.classList.toggle("over", Boolean(row));
  draw();
}

function under(event) {
  const { left, top, width } = canvas.getBoundingClientRect();
  const scale = state.photo.size.width / width;
  return objectAt(context, placed(), (event.clientX - left) * scale, (event.clientY - top) * scale);
}

async function save() {
  const { bitmap, size, name } = state.photo;
  const picture = new OffscreenCanvas(size.width, size.height);
  const unit = Math.max(1, Math.sqrt(size.width * size.height) / 640);
  paint(picture.getContext("2d"), bitmap, size, placed(), { unit });
  const url = URL.createObjectURL(await picture.convertToBlob({ type: "image/png" }));
  make("a", { href: url, download: `${name.replace(/\.\w+$/, "")}-${state.shown ?? "photo"}.png` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

canvas.addEventListener("pointermove", (event) => light(under(event)));
canvas.addEventListener("pointerleave", () => light(null));
canvas.addEventListener("click", (event) => {
  const row = under(event);
  [...byId("rows").querySelectorAll("button")].find((element) => element.row === row)?.focus();
});
const rowOf = (event) => event.target.closest("button.row")?.row ?? null;
byId("rows").addEventListener("pointerover", (event) => light(rowOf(event)));
byId("rows").addEventListener("pointerleave", () => light(document.activeElement?.row ?? null));
byId("rows").addEventListener("focusin", (event) => light(rowOf(event)));
byId("rows").addEventListener("focusout", () => light(null));
byId("save").addEventListener("click", save);
new ResizeObserver(draw).observe(byId("stage"));
document.fonts.ready.then(draw);
