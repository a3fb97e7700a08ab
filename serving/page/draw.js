// Draws a photo with objects. An object is {label, classId, score, box, path, instance}, with box and path in pixels of
// the photo.

import { colour, css, ink } from "./palette.js";

/**
 * Paint `photo` and `objects` (best first) over the whole canvas of `context`. `unit` is the size of a CSS pixel on this
 * canvas: strokes and text scale with it. The object `lit` is highlighted, and the rest of the photo dimmed.
 */
export function paint(context, photo, size, objects, { unit, lit = null }) {
  const { width, height } = context.canvas;
  const scale = width / size.width;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  if (photo) context.drawImage(photo, 0, 0, width, height);
  context.lineJoin = "round";
  const shown = lit ? [lit] : objects;
  if (lit) dim(context, size, scale, lit);
  // Large objects must not cover small ones.
  const largestFirst = [...shown].sort((one, other) => area(other.box) - area(one.box));
  for (const object of largestFirst) {
    if (object.path) fillAndStroke(context, object, scale, unit, lit !== null);
  }
  for (const object of largestFirst) frame(context, object, scale, unit);
  write(context, shown, scale, unit);
}

/** Return the smallest of `objects` at a point of the photo, or null. */
export function objectAt(context, objects, x, y) {
  context.setTransform(1, 0, 0, 1, 0, 0);
  const smallestFirst = [...objects].sort((one, other) => area(one.box) - area(other.box));
  const within = ({ box: [x1, y1, x2, y2] }) => x >= x1 && x <= x2 && y >= y1 && y <= y2;
  const hit = smallestFirst.find(({ path }) => path && context.isPointInPath(path, x, y, "evenodd"));
  return hit ?? smallestFirst.find(within) ?? null;
}

function area([x1, y1, x2, y2]) {
  return (x2 - x1) * (y2 - y1);
}

function dim(context, size, scale, { box: [x1, y1, x2, y2], path }) {
  const around = new Path2D();
  around.rect(0, 0, size.width, size.height);
  if (path) around.addPath(path);
  else around.rect(x1, y1, x2 - x1, y2 - y1);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.fillStyle = "rgb(0 0 0 / 0.55)";
  context.fill(around, "evenodd");
}

function fillAndStroke(context, object, scale, unit, lit) {
  const shade = colour(object.classId, object.instance);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.fillStyle = css(shade, lit ? 0.15 : 0.38);
  context.fill(object.path, "evenodd");
  stroke(context, shade, unit / scale, () => context.stroke(object.path));
}

function frame(context, { classId, instance, box: [x1, y1, x2, y2], path }, scale, unit) {
  const shade = colour(classId, instance);
  context.setTransform(1, 0, 0, 1, 0, 0);
  const rounded = new Path2D();
  const half = unit;
  const left = Math.max(x1 * scale, half);
  const top = Math.max(y1 * scale, half);
  const right = Math.min(x2 * scale, context.canvas.width - half);
  const bottom = Math.min(y2 * scale, context.canvas.height - half);
  rounded.roundRect(left, top, Math.max(right - left, 1), Math.max(bottom - top, 1), 3 * unit);
  if (path) {
    // The outline already shows the object: a thick box would only hide others in a crowd.
    context.lineWidth = unit;
    context.strokeStyle = css(shade, 0.75);
    context.stroke(rounded);
  } else {
    stroke(context, shade, unit, () => context.stroke(rounded));
  }
}

/** Draw a coloured line with a dark rim, visible on any photo. */
function stroke(context, shade, unit, line) {
  context.lineWidth = 4 * unit;
  context.strokeStyle = "rgb(0 0 0 / 0.45)";
  line();
  context.lineWidth = 2 * unit;
  context.strokeStyle = css(shade);
  line();
}

function write(context, objects, scale, unit) {
  const em = 12 * unit;
  const pad = 5 * unit;
  const height = Math.round(em + 7 * unit);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.font = `600 ${em}px Inter, system-ui, sans-serif`;
  context.textBaseline = "middle";
  const places = [];
  for (const object of objects) {
    const full = `${object.label} ${Math.round(100 * object.score)} %`;
    const widthOf = (text) => context.measureText(text).width + 2 * pad;
    const place = [full, object.label]
      .map((text) => ({ text, spot: free(context, object.box, scale, widthOf(text), height, places) }))
      .find(({ spot }) => spot);
    // A tag without a free place is left out: the list beside the photo has all of them.
    if (!place) continue;
    const [x, y, width] = place.spot;
    places.push(place.spot);
    const shade = colour(object.classId);
    context.beginPath();
    context.roundRect(x, y, width, height, 4 * unit);
    context.fillStyle = css(shade);
    context.fill();
    context.fillStyle = css(ink(shade));
    context.fillText(place.text, x + pad, y + height / 2 + 0.5 * unit);
  }
}

/** Return a place [x, y, width, height] for a tag at a box that overlaps none of `taken`, or null. */
function free(context, box, scale, width, height, taken) {
  const [x1, y1, x2, y2] = box.map((side) => side * scale);
  const [right, bottom] = [x2 - width, y2 - height];
  const candidates = [
    [x1, y1 - height], [right, y1 - height], [x1, y1], [right, y1], [x1, y2], [right, y2],
    [x1, bottom], [right, bottom], [x2, y1], [x1 - width, y1], [x2, bottom], [x1 - width, bottom],
  ];
  const { width: wide, height: high } = context.canvas;
  const within = (value, room) => Math.round(Math.min(Math.max(value, 0), room));
  return (
    candidates
      .map(([x, y]) => [within(x, wide - width), within(y, high - height), width, height])
      .find((one) => one[0] >= 0 && one[1] >= 0 && !taken.some((other) => overlap(one, other))) ?? null
  );
}

function overlap([x, y, width, height], [left, top, wide, high]) {
  return x < left + wide && left < x + width && y < top + high && top < y + height;
}
