// COCO's compressed run-length encoding of masks: runs in column-major order, starting with a run of zeros. From the
// fourth on, each run is the difference to the run two before. Numbers are in groups of 5 bits, the lowest first.

/** Return the lengths of the runs in pixels, decoded from `counts`. */
export function runsOf(counts) {
  const runs = [];
  let value = 0;
  let shift = 0;
  for (let at = 0; at < counts.length; at++) {
    const group = counts.charCodeAt(at) - 48;
    // Bitwise operators would overflow at 32 bits.
    value += (group & 0x1f) * 2 ** shift;
    shift += 5;
    if (group & 0x20) continue;
    if (group & 0x10) value -= 2 ** shift;
    runs.push(value + (runs.length > 2 ? runs[runs.length - 2] : 0));
    value = shift = 0;
  }
  return runs;
}

/**
 * Decode `{size: [height, width], counts}` to `{x, y, width, height, bits}`: the smallest window around the mask, and its
 * pixels row by row, 0 or 1. Throws RangeError if the runs do not add up to the size.
 */
export function decode({ size: [rows, columns], counts }) {
  const runs = runsOf(counts);
  if (runs.some((run) => run < 0) || runs.reduce((sum, run) => sum + run, 0) !== rows * columns) {
    throw new RangeError(`The runs of the mask do not add up to ${rows} x ${columns} pixels.`);
  }
  const strips = stripsOf(runs, rows);
  if (!strips.length) return { x: 0, y: 0, width: 0, height: 0, bits: new Uint8Array(0) };
  const x = strips[0].column;
  const y = strips.reduce((least, { from }) => Math.min(least, from), rows);
  const width = strips[strips.length - 1].column + 1 - x;
  const height = strips.reduce((most, { to }) => Math.max(most, to), 0) - y;
  const bits = new Uint8Array(width * height);
  for (const { column, from, to } of strips) {
    for (let row = from; row < to; row++) bits[(row - y) * width + column - x] = 1;
  }
  return { x, y, width, height, bits };
}

/** The runs of ones, split at the ends of columns: `{column, from, to}` in order. */
function stripsOf(runs, rows) {
  const strips = [];
  let at = 0;
  runs.forEach((run, index) => {
    const end = at + run;
    while (index % 2 && at < end) {
      const column = Math.floor(at / rows);
      const stop = Math.min(end, (column + 1) * rows);
      strips.push({ column, from: at - column * rows, to: stop - column * rows });
      at = stop;
    }
    at = end;
  });
  return strips;
}
